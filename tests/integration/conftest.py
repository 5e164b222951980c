"""Every answer that an in-process client gets is held against the API's description."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.conftest import ROOT
from tests.contract.client.described import Described, is_described


@pytest.fixture(scope="session")
def described() -> Iterator[Described]:
    """The description, as docs/ has it: that it is the served one is a test of its own."""
    schema = Described(json.loads((ROOT / "docs/openapi.json").read_text()))
    send = TestClient.send

    def held(client: TestClient, request: Any, **options: Any) -> Any:
        response = send(client, request, **options)
        # a door that a test makes for itself is none of the API's
        ours = response.url.path.startswith("/v1/") and not response.url.path.startswith("/v1/probes/")
        if ours and is_described(response):
            response.read()
            schema.hold(response)
        return response

    # a patch: there are as many apps as tests of one service, and the next one shall be held, too
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TestClient, "send", held)
        yield schema


@pytest.fixture(autouse=True)
def _every_answer_is_as_described(described: Described) -> Iterator[None]:
    yield
    problems = described.told()
    assert not problems, "\n".join(problems)
