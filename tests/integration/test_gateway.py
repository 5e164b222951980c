"""The public door: keys, hosts, the error envelope, and that the app starts with every service's routes."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from fastapi.testclient import TestClient

from services.gateway import keys
from shared.database import Database
from shared.settings import Settings
from tests.factories.gateway import bearer, served

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def http(settings: Settings) -> Iterator[TestClient]:
    with served(settings) as client:
        yield client


@pytest.fixture
def key(database: Database, settings: Settings, project_id: str) -> str:
    with database.transaction(project_id) as session:
        return keys.create(session, project_id, "test", settings.secret).text


def test_is_healthy_and_ready(http: TestClient) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {"status": "ready"}


@pytest.mark.parametrize(("method", "path"), [("GET", "models"), ("POST", "prompts")])
def test_says_when_to_come_again_while_every_connection_is_taken(
    settings: Settings, key: str, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    with served(settings.model_copy(update={"database_pool": 1})) as http, ExitStack() as taken:
        engine = http.app.state.wiring.database.engine  # type: ignore[attr-defined]
        monkeypatch.setattr(engine.pool, "_timeout", 0.2)
        for _ in range(3):
            taken.enter_context(engine.connect())
        refused = http.request(method, f"/v1/{path}", headers=bearer(key), json={"name": "p", "spec": {}})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
        assert 0 < int(refused.headers["retry-after"]) <= 60
        taken.close()
        assert http.get("/v1/models", headers=bearer(key)).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer sk-uplift-wrong"}, {"Authorization": "Basic x"}])
def test_refuses_every_route_without_a_key(http: TestClient, headers: dict[str, str]) -> None:
    checked = 0
    for path, operations in http.get("/openapi.json").json()["paths"].items():
        if path in {"/healthz", "/readyz"}:
            continue
        for method in operations:
            answer = http.request(method, path.replace("{", "").replace("}", ""), headers=headers)
            assert answer.status_code == 401, f"{method} {path}: {answer.status_code} {answer.text[:200]}"
            assert answer.json()["error"]["code"] == "invalid_api_key"
            checked += 1
    assert checked > 30


def test_takes_a_live_key_and_no_revoked_one(http: TestClient, key: str) -> None:
    assert http.get("/v1/models", headers=bearer(key)).status_code == 200
    listed = http.get("/v1/keys", headers=bearer(key)).json()["data"]
    assert key not in str(listed)
    assert http.delete(f"/v1/keys/{listed[0]['id']}", headers=bearer(key)).status_code == 200
    assert http.get("/v1/models", headers=bearer(key)).status_code == 401


def test_stores_only_the_hash_of_a_key(database: Database, settings: Settings, project_id: str, key: str) -> None:
    with database.transaction(project_id) as session:
        (row,), _ = keys.listing(session)
    assert key not in (row.key_hash, row.hint)
    assert row.key_hash == keys.hash_key(key, settings.secret)


@pytest.mark.parametrize(
    ("header", "value"), [("Host", "evil.example"), ("Origin", "https://evil.example"), ("Origin", "null")]
)
def test_refuses_names_that_are_not_ours(http: TestClient, key: str, header: str, value: str) -> None:
    answer = http.get("/v1/models", headers=bearer(key) | {header: value})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_host")


def test_turns_validation_errors_into_the_envelope(http: TestClient, key: str) -> None:
    answer = http.post("/v1/chat/completions", headers=bearer(key), json={"model": "x", "messages": []})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages"


def test_names_the_parameter_that_it_cannot_honour(http: TestClient, key: str) -> None:
    body = {"model": "x", "messages": [{"role": "user", "content": "hi"}], "verbosity": "high"}
    answer = http.post("/v1/chat/completions", headers=bearer(key), json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "verbosity")


def test_answers_unknown_things_with_404_in_the_envelope(http: TestClient, key: str) -> None:
    paths = ("models/none", "jobs/none", "vector_stores/none", "variants/none", "files/none", "nothing/here")
    for path in paths:
        answer = http.get(f"/v1/{path}", headers=bearer(key))
        assert answer.status_code == 404, path
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_names_every_answer_with_a_request_id(http: TestClient) -> None:
    first, second = (http.get("/healthz").headers["x-request-id"] for _ in range(2))
    assert first.startswith("req_")
    assert first != second


def test_keeps_projects_apart_over_http(
    http: TestClient, key: str, database: Database, admin_database: Database, settings: Settings
) -> None:
    from tests.conftest import make_project

    stranger = make_project(admin_database)
    with database.transaction(stranger) as session:
        other = keys.create(session, stranger, "other", settings.secret).text
    made = http.post("/v1/prompts", headers=bearer(key), json={"name": "p", "spec": {"instruction": "x"}}).json()
    assert http.get(f"/v1/prompts/{made['id']}", headers=bearer(key)).status_code == 200
    assert http.get(f"/v1/prompts/{made['id']}", headers=bearer(other)).status_code == 404
    assert http.get("/v1/prompts", headers=bearer(other)).json()["data"] == []


def test_keeps_prompt_versions_and_reuses_equal_ones(http: TestClient, key: str) -> None:
    def post(instruction: str) -> dict[str, object]:
        body = {"name": "greeting", "spec": {"instruction": instruction}}
        return http.post("/v1/prompts", headers=bearer(key), json=body).json()

    first, second, again = post("a"), post("b"), post("a")
    assert (first["version"], second["version"]) == (1, 2)
    assert again["id"] == first["id"]


def test_names_every_method_of_a_path_that_lacks_the_one_asked_for(http: TestClient, key: str) -> None:
    """`/datasets/raft` fits `/datasets/{dataset_id}` too, whose methods it has not."""
    for path, methods in (
        ("files", "GET, POST"),
        ("models/a/b", "DELETE, GET"),
        ("models/a/b/export", "POST"),
        ("datasets/raft", "POST"),
    ):
        answer = http.put(f"/v1/{path}", headers=bearer(key))
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)


def test_takes_a_model_name_as_a_label_whatever_its_length(http: TestClient, key: str) -> None:
    body = {"model": "0" * 250 + "../x", "training_file": "file-x"}
    answer = http.post("/v1/fine_tuning/jobs", headers=bearer(key), json=body)
    assert 400 <= answer.status_code < 500, answer.text
