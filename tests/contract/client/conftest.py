"""The client of this environment, whichever version it has, against a running platform. Imports nothing of ours.

In our own environment the fixture of the folder above starts the platform; elsewhere the environment says where it is.
"""

import io
import json
import os
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.contract.client.described import Described, Draft202012Validator, is_described

CHAT = "smollm2-135m-instruct"
EMBEDDER = "all-minilm-l6-v2"
TRAINABLE = "tiny"
DONE = {"succeeded", "failed", "cancelled", "completed", "expired", "canceled"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "covers(method, ...): the methods of the client that a test shows to work")


@pytest.fixture(scope="session")
def told(request: pytest.FixtureRequest) -> dict[str, str]:
    """CONTRACT_BASE_URL and the keys of three projects: ours, a neighbour's, and one that may ask 3 times a minute."""
    if "CONTRACT_BASE_URL" in os.environ:
        return dict(os.environ)
    return request.getfixturevalue("environment_of_platform")


@pytest.fixture(scope="session")
def described(told: dict[str, str]) -> Described | None:
    """What the platform says it answers; None where there is no validator."""
    if Draft202012Validator is None:
        return None
    with urllib.request.urlopen(told["CONTRACT_BASE_URL"].removesuffix("v1") + "openapi.json") as answer:
        return Described(json.load(answer))


@pytest.fixture(autouse=True)
def _every_answer_is_as_described(described: Described | None) -> Iterator[None]:
    yield
    problems = described.told() if described else []
    assert not problems, "\n".join(problems)


@pytest.fixture(scope="session")
def client(told: dict[str, str], described: Described | None) -> Iterator[openai.OpenAI]:
    http = openai.DefaultHttpxClient(event_hooks=_hooks(described))
    with openai.OpenAI(
        base_url=told["CONTRACT_BASE_URL"], api_key=told["CONTRACT_API_KEY"], timeout=120, http_client=http
    ) as opened:
        yield opened


@pytest.fixture(scope="session")
def neighbour(told: dict[str, str]) -> Iterator[openai.OpenAI]:
    """The same client with the key of another project."""
    with openai.OpenAI(base_url=told["CONTRACT_BASE_URL"], api_key=told["CONTRACT_OTHER_API_KEY"]) as opened:
        yield opened


@pytest.fixture
def async_client(told: dict[str, str], described: Described | None) -> openai.AsyncOpenAI:
    """Opened by the test with `async with`, inside the loop that it runs in."""
    http = openai.DefaultAsyncHttpxClient(event_hooks=_async_hooks(described))
    return openai.AsyncOpenAI(
        base_url=told["CONTRACT_BASE_URL"], api_key=told["CONTRACT_API_KEY"], timeout=120, http_client=http
    )


def _hooks(described: Described | None) -> dict[str, list[Callable[[Any], Any]]]:
    """Problems are told at the test's end: raised in here, the client would take them for a connection's and retry."""

    def hold(response: Any) -> None:
        if described and is_described(response):
            response.read()
            described.hold(response)

    return {"response": [hold]}


def _async_hooks(described: Described | None) -> dict[str, list[Callable[[Any], Any]]]:
    async def hold(response: Any) -> None:
        if described and is_described(response):
            await response.aread()
            described.hold(response)

    return {"response": [hold]}


def until(look: Callable[[], Any], true: Callable[[Any], bool], *, seconds: float = 180) -> Any:
    """Ask until what is seen is true; fails with the last thing seen."""
    end = time.monotonic() + seconds
    while not true(seen := look()):
        assert time.monotonic() < end, f"not within {seconds} s; last seen: {seen}"
        time.sleep(0.1)
    return seen


def finished(client: openai.OpenAI, job_id: str) -> FineTuningJob:
    """The job once it is over."""
    return until(lambda: client.fine_tuning.jobs.retrieve(job_id), lambda job: job.status in DONE)


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def upload(client: openai.OpenAI, name: str, content: bytes, purpose: str = "fine-tune") -> str:
    """The id of an uploaded file."""
    return client.files.create(file=(name, io.BytesIO(content)), purpose=purpose).id  # type: ignore[arg-type]


def sums(first: int, count: int) -> bytes:
    """Chat examples that no two calls with other numbers share."""
    return json_lines(
        [
            {
                "messages": [
                    {"role": "user", "content": f"What is {number} plus two?"},
                    {"role": "assistant", "content": f"{number} plus two is {number + 2}."},
                ]
            }
            for number in range(first, first + count)
        ]
    )


@pytest.fixture(scope="session")
def training_file(client: openai.OpenAI) -> str:
    return upload(client, "sums.jsonl", sums(0, 12))


@pytest.fixture(scope="session")
def validation_file(client: openai.OpenAI) -> str:
    return upload(client, "more-sums.jsonl", sums(100, 4))


@pytest.fixture(scope="session")
def trained(client: openai.OpenAI, training_file: str, validation_file: str) -> FineTuningJob:
    """A short supervised job that has succeeded."""
    job = client.fine_tuning.jobs.create(
        model=TRAINABLE,
        training_file=training_file,
        validation_file=validation_file,
        suffix="sums",
        seed=7,
        metadata={"suite": "contract"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}},
    )
    done = finished(client, job.id)
    assert done.status == "succeeded", done.error
    return done


DOCUMENTS = {
    "kettle.md": "# Kettle\n\nThe kettle boils water in three minutes. Its lid is made of copper.\n",
    "lamp.md": "# Lamp\n\nThe lamp gives a warm light for nine hours. Its shade is woven from reeds.\n",
    "clock.md": "# Clock\n\nThe clock strikes every quarter of an hour. Its hands are made of brass.\n",
}
LENGTHS = {"kettle.md": 1, "lamp.md": 2, "clock.md": 3}


@pytest.fixture(scope="session")
def documents(client: openai.OpenAI) -> dict[str, str]:
    """File ids by name."""
    return {name: upload(client, name, text.encode(), "assistants") for name, text in DOCUMENTS.items()}


@pytest.fixture(scope="session")
def store(client: openai.OpenAI, documents: dict[str, str]) -> str:
    """The id of a vector store with three indexed files, whose attribute `name` is the file's name."""
    made = client.vector_stores.create(name="household", metadata={"suite": "contract"})
    for name, file_id in documents.items():
        file = client.vector_stores.files.create_and_poll(
            file_id, vector_store_id=made.id, attributes={"name": name, "length": LENGTHS[name]}
        )
        assert file.status == "completed", file.last_error
    return made.id


async def collected(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]
