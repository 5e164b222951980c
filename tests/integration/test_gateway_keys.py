"""API keys: scopes on every route, expiry, and what a key may hand out."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from services.gateway import keys
from services.gateway.scopes import needed_scope
from shared.database import Database
from shared.settings import Settings
from tests.factories.gateway import bearer, new_key, served

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def http(settings: Settings) -> Iterator[TestClient]:
    with served(settings) as client:
        yield client


@pytest.fixture
def admin(database: Database, settings: Settings, project_id: str) -> str:
    return new_key(database, settings, project_id)


def test_asks_every_route_for_its_scope(
    http: TestClient, database: Database, settings: Settings, project_id: str
) -> None:
    without = {
        missing: new_key(database, settings, project_id, [scope for scope in keys.SCOPES if scope != missing])
        for missing in keys.SCOPES
    }
    needed = set()
    for path, operations in http.get("/openapi.json").json()["paths"].items():
        for method in operations if path.startswith("/v1/") else ():
            scope = needed_scope(method.upper(), path.removeprefix("/v1/"))
            needed.add(scope)
            answer = http.request(method, path.replace("{", "").replace("}", ""), headers=bearer(without[scope]))
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "missing_scope"), f"{method} {path}"
            assert f"the scope {scope};" in answer.json()["error"]["message"]
    assert needed == set(keys.SCOPES)


@pytest.mark.parametrize(
    ("scope", "method", "path"),
    [
        ("read", "GET", "models"),
        ("write", "POST", "prompts"),
        ("train", "POST", "fine_tuning/jobs"),
        ("admin", "GET", "keys"),
    ],
)
def test_one_scope_is_enough(
    http: TestClient, database: Database, settings: Settings, project_id: str, scope: str, method: str, path: str
) -> None:
    key = new_key(database, settings, project_id, [scope])
    assert http.request(method, f"/v1/{path}", headers=bearer(key), json={}).status_code in {200, 400}


def test_makes_keys_of_some_scopes_that_end(http: TestClient, admin: str) -> None:
    body = {"name": "web", "scopes": ["write", "read"], "expires_in_seconds": 3600}
    made = http.post("/v1/keys", headers=bearer(admin), json=body).json()
    assert made["scopes"] == ["read", "write"]
    assert made["expires_at"] == pytest.approx(time.time() + 3600, abs=60)
    assert http.get("/v1/models", headers=bearer(made["key"])).status_code == 200
    assert http.get("/v1/keys", headers=bearer(made["key"])).status_code == 403
    shown = http.get(f"/v1/keys/{made['id']}", headers=bearer(admin)).json()
    assert shown == {name: value for name, value in made.items() if name != "key"}


def test_hands_out_its_own_scopes_and_no_more(
    http: TestClient, database: Database, settings: Settings, project_id: str
) -> None:
    narrow = new_key(database, settings, project_id, ["read", "admin"])
    made = http.post("/v1/keys", headers=bearer(narrow), json={"name": "same"}).json()
    assert made["scopes"] == ["read", "admin"]
    refused = http.post("/v1/keys", headers=bearer(narrow), json={"name": "more", "scopes": ["read", "train"]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (403, "scopes")
    assert "cannot hand out train" in refused.json()["error"]["message"]


def test_hands_out_no_life_beyond_its_own(http: TestClient, admin: str) -> None:
    def made(key: str, **body: Any) -> Any:
        return http.post("/v1/keys", headers=bearer(key), json={"name": "k"} | body)

    assert made(admin).json()["expires_at"] is None
    short = made(admin, expires_in_seconds=3600).json()
    for beyond in ({"expires_in_seconds": 7200}, {"expires_at": short["expires_at"] + 60}):
        refused = made(short["key"], **beyond)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "expiry_beyond_own")
        assert refused.json()["error"]["param"] == "expires_at"
    assert made(short["key"]).json()["expires_at"] == short["expires_at"]
    assert made(short["key"], expires_at=short["expires_at"]).json()["expires_at"] == short["expires_at"]
    assert made(short["key"], expires_in_seconds=60).json()["expires_at"] < short["expires_at"]
    assert len(http.get("/v1/keys", headers=bearer(admin)).json()["data"]) == 6


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("scopes.0", {"scopes": ["everything"]}),
        ("scopes", {"scopes": []}),
        ("expires_at", {"expires_at": 1}),
        ("expires_in_seconds", {"expires_in_seconds": 0}),
        ("expires_in_seconds", {"expires_in_seconds": 5, "expires_at": 4102444800}),
        ("expires_at", {"expires_at": 10**18}),
        ("owner", {"owner": "me"}),
    ],
)
def test_names_what_is_wrong_with_a_new_key(http: TestClient, admin: str, field: str, body: dict[str, Any]) -> None:
    refused = http.post("/v1/keys", headers=bearer(admin), json={"name": "x"} | body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)


def test_refuses_a_key_from_the_moment_it_expires(
    http: TestClient, admin: str, admin_database: Database, settings: Settings
) -> None:
    body = {"name": "short", "expires_in_seconds": 3600}
    made = http.post("/v1/keys", headers=bearer(admin), json=body).json()
    assert http.get("/v1/models", headers=bearer(made["key"])).status_code == 200
    with admin_database.system_transaction() as session:  # time travel is the owner's privilege
        session.execute(
            sa.text("UPDATE api_keys SET expires_at = now() - interval '1 second' WHERE id = :id"), {"id": made["id"]}
        )
    refused = http.get("/v1/models", headers=bearer(made["key"]))
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


def test_lists_keys_page_by_page(http: TestClient, admin: str) -> None:
    made = [http.post("/v1/keys", headers=bearer(admin), json={"name": str(n)}).json()["id"] for n in range(4)]
    seen: list[str] = []
    after: str | None = None
    while True:
        page = http.get("/v1/keys", headers=bearer(admin), params={"limit": 2} | ({"after": after} if after else {}))
        seen += [key["id"] for key in page.json()["data"]]
        if not page.json()["has_more"]:
            break
        after = page.json()["last_id"]
    assert seen[:4] == made[::-1]
    assert len(seen) == 5


def test_asks_for_a_key_before_it_reads_the_body(http: TestClient) -> None:
    refused = http.post("/v1/prompts", content=b"{ this is no JSON", headers={"content-type": "application/json"})
    assert refused.status_code == 401
