"""The audit log: one entry for every request that changed something or tried to, and nobody changes an entry."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from shared.database import Database
from shared.settings import Settings
from tests.factories.gateway import bearer, new_key, served

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def http(settings: Settings) -> Iterator[TestClient]:
    with served(settings) as client:
        yield client


@pytest.fixture
def key(database: Database, settings: Settings, project_id: str) -> str:
    return new_key(database, settings, project_id)


def test_tells_who_changed_what(http: TestClient, key: str) -> None:
    spec = {"name": "p", "spec": {"instruction": "x"}}
    made = http.post("/v1/prompts", headers=bearer(key), json=spec)
    http.get("/v1/prompts", headers=bearer(key))
    http.post("/v1/prompts", headers=bearer(key), json={})
    http.post("/v1/embeddings", headers=bearer(key), json={})
    gone = http.delete("/v1/files/file-none", headers=bearer(key))
    http.delete("/v1/nothing/here", headers=bearer(key))
    mine = http.get("/v1/keys", headers=bearer(key)).json()["data"][0]["id"]
    found = http.get("/v1/audit_log", headers=bearer(key), params={"order": "asc"}).json()
    told = [(one["method"], one["path"], one["object_id"], one["status"]) for one in found["data"]]
    assert told == [
        ("POST", "/v1/prompts", made.json()["id"], 200),
        ("POST", "/v1/prompts", None, 400),
        ("DELETE", "/v1/files/{file_id}", "file-none", 404),
    ]
    assert {one["key_id"] for one in found["data"]} == {mine}
    assert found["data"][0]["request_id"] == made.headers["x-request-id"]
    assert found["data"][2]["request_id"] == gone.headers["x-request-id"]
    assert found["data"][0]["object"] == "audit_log.entry"
    assert key not in str(found)


def test_tells_of_what_a_key_was_not_allowed_to_do(
    http: TestClient, key: str, database: Database, settings: Settings, project_id: str
) -> None:
    narrow = new_key(database, settings, project_id, ["read"])
    assert http.delete("/v1/files/file-x", headers=bearer(narrow)).status_code == 403
    assert http.get("/v1/keys", headers=bearer(narrow)).status_code == 403
    (entry,) = http.get("/v1/audit_log", headers=bearer(key)).json()["data"]
    assert (entry["method"], entry["path"], entry["status"]) == ("DELETE", "/v1/files/file-x", 403)


def test_tells_of_a_deleted_model_whatever_its_name(http: TestClient, key: str) -> None:
    http.delete("/v1/models/search", headers=bearer(key))
    (entry,) = http.get("/v1/audit_log", headers=bearer(key)).json()["data"]
    assert (entry["method"], entry["path"], entry["object_id"]) == ("DELETE", "/v1/models/{model:path}", "search")


def test_lists_entries_to_the_end_in_both_orders(http: TestClient, key: str) -> None:
    for number in range(5):
        http.delete(f"/v1/files/file-{number}", headers=bearer(key))
    for order, expected in (("asc", range(5)), ("desc", range(4, -1, -1))):
        seen: list[str] = []
        query: dict[str, str | int] = {"limit": 2, "order": order}
        while True:
            page = http.get("/v1/audit_log", headers=bearer(key), params=query).json()
            seen += [entry["object_id"] for entry in page["data"]]
            if not page["has_more"]:
                break
            query["after"] = page["last_id"]
        assert seen == [f"file-{number}" for number in expected]
    assert http.get("/v1/audit_log", headers=bearer(key), params={"after": "audit_none"}).status_code == 404


@pytest.mark.parametrize("statement", ["UPDATE audit_log SET status = 200", "DELETE FROM audit_log"])
def test_refuses_every_change_of_an_entry(
    http: TestClient,
    key: str,
    database: Database,
    admin_database: Database,
    project_id: str,
    statement: str,
) -> None:
    http.delete("/v1/files/file-x", headers=bearer(key))
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"), database.transaction(project_id) as session:
        session.execute(sa.text(statement))
    # the owner has the grants; the trigger stops it all the same
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), admin_database.transaction(project_id) as session:
        session.execute(sa.text(statement))
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), admin_database.system_transaction() as session:
        session.execute(sa.text("TRUNCATE audit_log"))


def test_answers_a_page_that_may_call_and_no_other(settings: Settings, key: str) -> None:
    page = {"Origin": "https://app.example.com"}
    asked = page | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with served(settings.model_copy(update={"cors_origins": ["https://app.example.com"]})) as http:
        allowed = http.get("/v1/models", headers=bearer(key) | page)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, page["Origin"])
        assert http.options("/v1/models", headers=asked).status_code == 200
        refused = http.get("/v1/models", headers=page)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, page["Origin"])
        assert http.get("/v1/models", headers=bearer(key) | {"Origin": "https://evil.example"}).status_code == 403
    with served(settings) as http:
        assert http.get("/v1/models", headers=bearer(key) | page).status_code == 403
        assert "access-control-allow-origin" not in http.options("/v1/models", headers=asked).headers
