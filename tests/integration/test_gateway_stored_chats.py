"""Chats that are kept, through the door: made once however often their client tries, and told in the audit log."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from shared.database import Database
from shared.settings import Settings
from tests.factories.gateway import bearer, new_key, served
from tests.factories.generation import echo_worker

pytestmark = pytest.mark.stack
CHAT = "/v1/chat/completions"
HI: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(scope="module")
def http(
    settings: Settings, stack_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    home = tmp_path_factory.mktemp("stored-chats-home")
    model = home / "models" / "tiny"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    with (
        echo_worker(stack_environment, home, Path(tmp_path_factory.mktemp("echo"))),
        served(settings.model_copy(update={"home": home})) as client,
    ):
        yield client


@pytest.fixture
def key(database: Database, settings: Settings, project_id: str) -> str:
    return new_key(database, settings, project_id)


def ask(http: TestClient, key: str, attempt: int, **more: Any) -> Any:
    headers = bearer(key) | {"x-stainless-retry-count": str(attempt)}
    return http.post(CHAT, headers=headers, json=HI | more)


def stored(http: TestClient, key: str) -> list[str]:
    return [one["id"] for one in http.get(CHAT, headers=bearer(key)).json()["data"]]


def audited(http: TestClient, key: str) -> list[tuple[str, str, str | None, int]]:
    found = http.get("/v1/audit_log", headers=bearer(key), params={"order": "asc"}).json()["data"]
    return [(one["method"], one["path"], one["object_id"], one["status"]) for one in found]


def test_answers_a_retry_with_the_completion_that_was_stored(http: TestClient, key: str) -> None:
    first, again = (ask(http, key, attempt, store=True) for attempt in (0, 1))
    assert first.status_code == 200, first.text
    assert "idempotency-replayed" not in first.headers
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert stored(http, key) == [first.json()["id"]]
    # an order of its own is answered anew, and so is a retry with another body
    own, other = ask(http, key, 0, store=True), ask(http, key, 1, store=True, seed=1)
    assert stored(http, key) == [first.json()["id"], own.json()["id"], other.json()["id"]]


def test_tells_in_the_audit_log_what_was_stored_and_nothing_of_other_chats(http: TestClient, key: str) -> None:
    for plain in ({}, {"store": False}, {"store": None}):
        assert ask(http, key, 0, **plain).status_code == 200
    kept, refused = ask(http, key, 0, store=True), ask(http, key, 0, store=True, nonsense=1)
    assert refused.status_code == 400
    assert audited(http, key) == [("POST", CHAT, kept.json()["id"], 200), ("POST", CHAT, None, 400)]


def test_answers_a_retry_of_a_chat_that_is_not_stored_anew(http: TestClient, key: str) -> None:
    first, again = (ask(http, key, attempt) for attempt in (0, 1))
    assert first.json()["id"] != again.json()["id"]
    assert "idempotency-replayed" not in again.headers


@pytest.mark.parametrize("by", ["attempt", "key"])
def test_stores_a_stream_once_and_says_that_it_cannot_be_told_again(http: TestClient, key: str, by: str) -> None:
    headers = [{"x-stainless-retry-count": str(attempt)} for attempt in (0, 1)]
    if by == "key":
        headers = [{"Idempotency-Key": "one"}] * 2
    first, again = (
        http.post(CHAT, headers=bearer(key) | one, json=HI | {"store": True, "stream": True}) for one in headers
    )
    assert first.text.endswith("data: [DONE]\n\n")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "idempotent_answer_not_kept")
    assert again.headers["x-should-retry"] == "false"
    assert len(stored(http, key)) == 1
    assert audited(http, key) == [("POST", CHAT, None, 200)]
