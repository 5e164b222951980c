"""Repeated requests through the door: by Idempotency-Key, and as the unmodified client tries again."""

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from starlette.middleware import Middleware

from services.gateway import app as gateway
from services.gateway import idempotency, ledger
from services.gateway.access import api_key_access
from services.gateway.ledger import Ledger
from services.gateway.wiring import GatewayWiring
from shared import jobs
from shared.database import Database
from shared.errors import InvalidInput, Unavailable
from shared.messages import TrainAdapter
from shared.settings import Settings
from shared.web import Caller, caller, create_app
from tests.factories.gateway import bearer, new_key
from tests.fakes.processes import wait_until

pytestmark = pytest.mark.stack
Who = Annotated[Caller, Depends(caller)]
probes = APIRouter(prefix="/probes")


class Ran:
    """How often the probing routes ran, and a door that holds one of them."""

    def __init__(self) -> None:
        self.times = 0
        self.open, self.entered = threading.Event(), threading.Event()


@pytest.fixture
def ran(http: TestClient) -> Ran:
    http.app.state.ran = Ran()  # type: ignore[attr-defined]
    found: Ran = http.app.state.ran  # type: ignore[attr-defined]
    return found


@probes.post("/held")
def held(request: Request, who: Who) -> dict[str, Any]:
    found: Ran = request.app.state.ran
    found.times += 1
    found.entered.set()
    assert found.open.wait(30)
    return {"id": f"held-{found.times}"}


@probes.post("/held_then_fails")
def held_then_fails(request: Request, who: Who) -> None:
    held(request, who)
    raise Unavailable("Away for a moment.")


@probes.post("/failing/{status}")
def failing(status: int, request: Request, who: Who) -> dict[str, Any]:
    found: Ran = request.app.state.ran
    found.times += 1
    if status == 400:
        raise InvalidInput("Always wrong.", param="x")
    if status == 503:
        raise Unavailable("Away for a moment.")
    raise RuntimeError("a defect")


@probes.post("/stream")
def stream(request: Request, who: Who) -> StreamingResponse:
    found: Ran = request.app.state.ran
    found.times += 1
    return StreamingResponse(iter(["data: 1\n\n", "data: [DONE]\n\n"]), media_type="text/event-stream")


@probes.post("/broken_stream")
def broken_stream(request: Request, who: Who) -> StreamingResponse:
    found: Ran = request.app.state.ran
    found.times += 1

    def pieces() -> Iterator[str]:
        yield "data: 1\n\n"
        raise RuntimeError("the source of the stream is gone")

    return StreamingResponse(pieces(), media_type="text/event-stream")


@probes.post("/long")
def long_answer(request: Request, who: Who) -> dict[str, str]:
    found: Ran = request.app.state.ran
    found.times += 1
    return {"id": "long", "text": "x" * (idempotency.MOST_BYTES + 1)}


@pytest.fixture(scope="module")
def http(settings: Settings) -> Iterator[TestClient]:
    """The gateway with a few routes of our own that can be held, fail and stream."""
    app = create_app(
        "gateway",
        [*gateway.ROUTERS, probes],
        wiring_factory=lambda: GatewayWiring.from_settings(settings),
        access=api_key_access,
        inner=[Middleware(Ledger)],
    )
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def key(database: Database, settings: Settings, project_id: str) -> str:
    return new_key(database, settings, project_id)


def prompt(text: str) -> dict[str, Any]:
    return {"name": "p", "spec": {"instruction": text}}


def test_replays_the_first_answer_to_the_same_request(http: TestClient, key: str) -> None:
    headers = bearer(key) | {"Idempotency-Key": "one"}
    made = [http.post("/v1/keys", headers=headers, json={"name": "k"}) for _ in range(2)]
    assert [answer.status_code for answer in made] == [200, 200]
    assert made[0].json()["id"] == made[1].json()["id"]
    assert "idempotency-replayed" not in made[0].headers
    assert made[1].headers["idempotency-replayed"] == "true"
    assert made[1].headers["content-type"] == "application/json"
    assert made[0].headers["x-request-id"] != made[1].headers["x-request-id"]
    assert len(http.get("/v1/keys", headers=bearer(key)).json()["data"]) == 2


def test_never_stores_the_text_of_a_new_key(http: TestClient, key: str, database: Database, project_id: str) -> None:
    headers = bearer(key) | {"Idempotency-Key": "secret"}
    text = http.post("/v1/keys", headers=headers, json={"name": "k"}).json()["key"]
    assert http.post("/v1/keys", headers=headers, json={"name": "k"}).json()["key"] is None
    with database.transaction(project_id) as session:
        bodies = session.scalars(sa.text("SELECT convert_from(body, 'UTF8') FROM idempotency_records")).all()
    assert bodies
    assert not [body for body in bodies if text in body]


def test_refuses_a_key_that_was_used_for_another_request(http: TestClient, key: str) -> None:
    headers = bearer(key) | {"Idempotency-Key": "two"}
    assert http.post("/v1/prompts", headers=headers, json=prompt("a")).status_code == 200
    refused = http.post("/v1/prompts", headers=headers, json=prompt("b"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "idempotency_key_reused")
    # another path is another request, and so is another project
    assert http.post("/v1/keys", headers=headers, json={"name": "x"}).status_code == 200


def test_keeps_the_keys_of_projects_apart(
    http: TestClient, key: str, database: Database, admin_database: Database, settings: Settings
) -> None:
    from tests.conftest import make_project

    other = new_key(database, settings, make_project(admin_database))
    name = {"Idempotency-Key": "shared by chance"}
    answers = [http.post("/v1/prompts", headers=bearer(one) | name, json=prompt("a")) for one in (key, other)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json()["id"] != answers[1].json()["id"]


def test_refuses_a_second_request_while_the_first_runs(http: TestClient, key: str, ran: Ran) -> None:
    headers = bearer(key) | {"Idempotency-Key": "busy"}
    answers: list[Any] = []
    first = threading.Thread(target=lambda: answers.append(http.post("/v1/probes/held", headers=headers, json={})))
    first.start()
    assert ran.entered.wait(30)
    refused = http.post("/v1/probes/held", headers=headers, json={})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "idempotency_key_in_use")
    assert refused.headers["x-should-retry"] == "false"
    different = http.post("/v1/probes/held", headers=headers, json={"other": 1})
    assert (different.status_code, different.json()["error"]["code"]) == (422, "idempotency_key_reused")
    ran.open.set()
    first.join(30)
    assert http.post("/v1/probes/held", headers=headers, json={}).json() == answers[0].json() == {"id": "held-1"}


def test_lets_the_next_request_run_when_a_process_died_in_the_first(
    http: TestClient, key: str, ran: Ran, database: Database, project_id: str
) -> None:
    headers = bearer(key) | {"Idempotency-Key": "dead"}
    dead = Caller(project_id, "p", "o", "key_dead", (), "req_dead")
    claimed = idempotency.claim(database, dead, "probes/held", "dead", None)
    assert isinstance(claimed, idempotency.Claim)
    assert http.post("/v1/probes/held", headers=headers, json={}).status_code == 409
    with database.transaction(project_id) as session:
        left = "SELECT extract(epoch FROM expires_at - now()) FROM idempotency_records"
        assert 0 < float(session.scalar(sa.text(left)) or 0) <= idempotency.IN_FLIGHT_SECONDS
        session.execute(sa.text("UPDATE idempotency_records SET expires_at = now()"))
    ran.open.set()
    assert http.post("/v1/probes/held", headers=headers, json={}).json() == {"id": "held-1"}
    assert http.post("/v1/probes/held", headers=headers, json={}).headers["idempotency-replayed"] == "true"


def test_forgets_after_a_day(http: TestClient, key: str, database: Database, project_id: str) -> None:
    headers = bearer(key) | {"Idempotency-Key": "old"}
    first = http.post("/v1/prompts", headers=headers, json=prompt("a"))
    with database.transaction(project_id) as session:
        left = "SELECT extract(epoch FROM expires_at - now()) FROM idempotency_records"
        assert float(session.scalar(sa.text(left)) or 0) == pytest.approx(24 * 3600, abs=120)
        session.execute(sa.text("UPDATE idempotency_records SET expires_at = now()"))
    second = http.post("/v1/prompts", headers=headers, json=prompt("b"))
    assert (first.status_code, second.status_code) == (200, 200)


@pytest.mark.parametrize(("status", "replayed"), [(400, True), (503, False), (500, False)])
def test_replays_refusals_but_no_accidents(http: TestClient, key: str, ran: Ran, status: int, replayed: bool) -> None:
    headers = bearer(key) | {"Idempotency-Key": "fails"}
    answers = [http.post(f"/v1/probes/failing/{status}", headers=headers, json={}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [status, status]
    assert ran.times == (1 if replayed else 2)
    assert set(answers[1].json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", ["stream", "long"])
def test_runs_no_request_twice_whose_answer_is_not_kept(http: TestClient, key: str, ran: Ran, path: str) -> None:
    headers = bearer(key) | {"Idempotency-Key": path}
    first, again = (http.post(f"/v1/probes/{path}", headers=headers, json={}) for _ in range(2))
    assert first.status_code == 200
    assert path == "long" or first.content == b"data: 1\n\ndata: [DONE]\n\n"
    assert (again.status_code, again.json()["error"]["code"]) == (409, "idempotent_answer_not_kept")
    assert again.headers["x-should-retry"] == "false"
    other = http.post(f"/v1/probes/{path}", headers=headers, json={"other": 1})
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert ran.times == 1


@pytest.mark.parametrize("path", ["stream", "long"])
def test_makes_nothing_twice_for_a_clients_retry_whose_first_answer_is_not_kept(
    http: TestClient, key: str, ran: Ran, path: str
) -> None:
    first, again = (retried(http, key, f"probes/{path}", count) for count in (0, 1))
    assert first.status_code == 200
    assert (again.status_code, again.json()["error"]["code"]) == (409, "idempotent_answer_not_kept")
    assert again.headers["x-should-retry"] == "false"
    assert ran.times == 1
    assert retried(http, key, f"probes/{path}", 0).status_code == 200  # no retry, so another order


def test_runs_a_request_again_whose_stream_broke_off(http: TestClient, key: str, ran: Ran) -> None:
    headers = bearer(key) | {"Idempotency-Key": "broken"}
    for _ in range(2):
        with contextlib.suppress(httpx.HTTPError):
            http.post("/v1/probes/broken_stream", headers=headers, json={})
    assert ran.times == 2
    for count in (0, 1):
        with contextlib.suppress(httpx.HTTPError):
            retried(http, key, "probes/broken_stream", count)
    assert ran.times == 4


@pytest.mark.parametrize("name", ["", "x" * 256, "a\tb"])
def test_refuses_keys_that_are_none(http: TestClient, key: str, name: str) -> None:
    refused = http.post("/v1/prompts", headers=bearer(key) | {"Idempotency-Key": name}, json=prompt("a"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_idempotency_key")


def upload(http: TestClient, key: str, content: bytes, **headers: str) -> Any:
    sent = bearer(key) | {name.replace("_", "-"): value for name, value in headers.items()}
    return http.post("/v1/files", headers=sent, files={"file": ("f.txt", content)}, data={"purpose": "user_data"})


def test_recognises_an_upload_whatever_its_boundary(http: TestClient, key: str) -> None:
    content = b"line\n" * 600_000
    first, again = (upload(http, key, content, Idempotency_Key="up") for _ in range(2))
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"
    assert upload(http, key, content + b"!", Idempotency_Key="up").status_code == 422
    assert len(http.get("/v1/files", headers=bearer(key)).json()["data"]) == 1


def test_answers_a_clients_retry_with_what_was_created(http: TestClient, key: str) -> None:
    for send in (
        lambda count: upload(http, key, b"x" * 3_000_000, x_stainless_retry_count=count),
        lambda count: http.post(
            "/v1/vector_stores", headers=bearer(key) | {"x-stainless-retry-count": count}, json={"name": "s"}
        ),
    ):
        made, again, third = send("0"), send("1"), send("2")
        assert made.status_code == 200, made.text
        assert "idempotency-replayed" not in made.headers
        assert made.json() == again.json() == third.json()
        assert again.headers["idempotency-replayed"] == "true"
        # a request of its own creates anew
        assert send("0").json()["id"] != made.json()["id"]


def test_runs_a_retry_of_what_failed_or_is_older_than_a_minute(
    http: TestClient, key: str, ran: Ran, database: Database, project_id: str
) -> None:
    def send(path: str, count: int) -> Any:
        return http.post(f"/v1/{path}", headers=bearer(key) | {"x-stainless-retry-count": str(count)}, json={})

    for count in range(3):
        assert send("probes/failing/503", count).status_code == 503
    assert ran.times == 3
    ran.open.set()
    first = send("probes/held", 0).json()
    with database.transaction(project_id) as session:
        left = "SELECT extract(epoch FROM expires_at - now()) FROM idempotency_records"
        assert 0 < float(session.scalar(sa.text(left)) or 0) <= idempotency.RETRY_SECONDS
        session.execute(sa.text("UPDATE idempotency_records SET expires_at = now()"))
    assert send("probes/held", 1).json() != first


def retried(http: TestClient, key: str, path: str, count: int) -> Any:
    return http.post(f"/v1/{path}", headers=bearer(key) | {"x-stainless-retry-count": str(count)}, json={})


def test_a_retry_waits_for_its_first_attempt_and_runs_nothing_twice(http: TestClient, key: str, ran: Ran) -> None:
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(retried, http, key, "probes/held", 0)
        assert ran.entered.wait(30)
        again = [pool.submit(retried, http, key, "probes/held", count) for count in (1, 2)]
        time.sleep(0.5)
        assert not any(answer.done() for answer in again)
        ran.open.set()
    assert [answer.result().json() for answer in again] == [first.result().json()] * 2 == [{"id": "held-1"}] * 2
    assert ran.times == 1


def test_a_retry_is_told_to_ask_again_where_its_first_attempt_takes_long(
    http: TestClient, key: str, ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_PATIENCE_SECONDS", 0.1)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(retried, http, key, "probes/held", 0)
        assert ran.entered.wait(30)
        refused = retried(http, key, "probes/held", 1)
        ran.open.set()
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "first_attempt_running")
    assert "x-should-retry" not in refused.headers  # so the client does try again, and after this many seconds
    assert 0 < float(refused.headers["retry-after"]) <= 5
    assert retried(http, key, "probes/held", 2).json() == {"id": "held-1"}


def test_a_retry_runs_once_its_first_attempt_has_failed(http: TestClient, key: str, ran: Ran) -> None:
    with ThreadPoolExecutor(2) as pool:
        pool.submit(retried, http, key, "probes/held_then_fails", 0)
        assert ran.entered.wait(30)
        again = pool.submit(retried, http, key, "probes/held_then_fails", 1)
        time.sleep(0.5)
        ran.open.set()
    assert again.result().status_code == 503
    assert ran.times == 2


def test_equal_requests_that_are_no_retries_run_beside_each_other(http: TestClient, key: str, ran: Ran) -> None:
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(retried, http, key, "probes/held", 0) for _ in range(2)]
        wait_until(lambda: ran.times == 2, seconds=30)
        ran.open.set()
    assert [answer.result().status_code for answer in both] == [200, 200]


def test_pauses_again_after_a_resume_though_the_first_try_was_lost(
    http: TestClient, key: str, database: Database, project_id: str
) -> None:
    with database.transaction(project_id) as session:
        job = jobs.send(session, project_id, TrainAdapter(training_job_id="x")).id
    for action, count, status in (("pause", 0, "paused"), ("resume", 0, "queued"), ("pause", 1, "paused")):
        answer = retried(http, key, f"jobs/{job}/{action}", count)
        assert (answer.status_code, answer.json()["status"]) == (200, status), action
        assert http.get(f"/v1/jobs/{job}", headers=bearer(key)).json()["status"] == status


def test_remembers_every_order_but_those_that_set_a_state(http: TestClient) -> None:
    posts = {path for path, found in http.get("/openapi.json").json()["paths"].items() if "post" in found}
    assert {path for path in posts if not idempotency.remembers_attempts(path.removeprefix("/v1/"))} == {
        "/v1/evals/{eval_id}",
        "/v1/fine_tuning/jobs/{job_id}/pause",
        "/v1/fine_tuning/jobs/{job_id}/resume",
        "/v1/jobs/{job_id}/pause",
        "/v1/jobs/{job_id}/resume",
        "/v1/releases",
        "/v1/chat/completions/{completion_id}",
        "/v1/searches/{search_id}/pause",
        "/v1/searches/{search_id}/resume",
        "/v1/vector_stores/{store_id}",
        "/v1/vector_stores/{store_id}/files/{file_id}",
    }


def test_tells_another_keys_retry_apart(
    http: TestClient, key: str, database: Database, settings: Settings, project_id: str, ran: Ran
) -> None:
    ran.open.set()
    other = new_key(database, settings, project_id)
    first = http.post("/v1/probes/held", headers=bearer(key) | {"x-stainless-retry-count": "0"}, json={})
    second = http.post("/v1/probes/held", headers=bearer(other) | {"x-stainless-retry-count": "1"}, json={})
    assert first.json() != second.json()


def test_answers_only_after_the_record_is_written(http: TestClient, key: str, ran: Ran) -> None:
    ran.open.set()
    for number in range(20):
        headers = bearer(key) | {"Idempotency-Key": f"at once {number}"}
        first = http.post("/v1/probes/held", headers=headers, json={})
        assert http.post("/v1/probes/held", headers=headers, json={}).json() == first.json()
    assert ran.times == 20
