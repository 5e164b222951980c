"""A job's events as a stream, from a real server: each once, resumed where the client stopped, ended with the job."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import uvicorn
from fastapi import Request
from typer.testing import CliRunner

from services.cli.client import Message, sse_messages
from services.cli.main import cli
from services.data.routes import router as data
from services.training.handlers import JOB_HANDLERS
from services.training.routes import router as training
from services.training.settings import TrainingSettings
from shared import jobs
from shared.database import Database
from shared.ids import new_id
from shared.jobs import streaming
from shared.jobs.routes import event_object
from shared.jobs.routes import router as jobs_router
from shared.jobs.runner import JobRunner
from shared.jobs.tables import JobEvent
from shared.messages import TrainAdapter
from shared.settings import Settings
from shared.web import Caller, create_app
from shared.wiring import Wiring
from tests.factories.tiny_model import make_tiny_model
from tests.fakes.processes import wait_until

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def own(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> TrainingSettings:
    home = tmp_path_factory.mktemp("streams-home")
    make_tiny_model(home / "models" / "tiny")
    return TrainingSettings(**settings.model_dump() | {"home": home})


@pytest.fixture(scope="module")
def parts(own: TrainingSettings) -> Iterator[Wiring]:
    connected = Wiring.from_settings(own)
    yield connected
    connected.close()


@pytest.fixture(scope="module")
def address(own: TrainingSettings) -> Iterator[str]:
    async def access(request: Request, _parts: Wiring) -> Caller:
        project = request.headers["authorization"].removeprefix("Bearer ")
        return Caller(project, "tests", "org", "key", (), new_id("req_"))

    app = create_app(
        "streams", [data, training, jobs_router], wiring_factory=lambda: Wiring.from_settings(own), access=access
    )
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        wait_until(lambda: server.started, seconds=20)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def http(address: str, project_id: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {project_id}"}
    with httpx.Client(base_url=address, headers=headers, timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture
def job_id(database: Database, project_id: str) -> str:
    with database.transaction(project_id) as session:
        return jobs.send(session, project_id, TrainAdapter(training_job_id="none")).id


def say(database: Database, project_id: str, job_id: str, *messages: str) -> None:
    with database.transaction(project_id) as session:
        for message in messages:
            session.add(
                JobEvent(project_id=project_id, job_id=job_id, level="info", type="message", message=message, data=None)
            )
            session.flush()


@contextmanager
def following(http: httpx.Client, job_id: str, **headers: str) -> Iterator[Iterator[Message]]:
    path = f"/jobs/{job_id}/events"
    with http.stream("GET", path, params={"stream": "true"}, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield sse_messages(answer.iter_lines())


def events(messages: Iterator[Message], count: int) -> list[Message]:
    """The next so many ordinary events."""
    found: list[Message] = []
    while len(found) < count:
        message = next(messages)
        if message.event == "message":
            found.append(message)
    return found


def test_tells_each_event_once_and_ends_with_the_job(
    http: httpx.Client, database: Database, project_id: str, job_id: str
) -> None:
    say(database, project_id, job_id, "a", "b")
    with following(http, job_id) as messages:
        assert [one.data["message"] for one in events(messages, 2)] == ["a", "b"]
        say(database, project_id, job_id, "c")
        assert [one.data["message"] for one in events(messages, 1)] == ["c"]
        say(database, project_id, job_id, "d")
        with database.transaction(project_id) as session:
            jobs.cancel(session, job_id)
        rest = list(messages)
    assert [one.data["message"] for one in rest if one.event == "message"] == ["d"]
    assert (rest[-1].event, rest[-1].data["status"]) == ("end", "cancelled")


def test_goes_on_after_the_last_event_that_the_client_had(
    http: httpx.Client, database: Database, project_id: str, job_id: str
) -> None:
    say(database, project_id, job_id, *"abcd")
    with following(http, job_id) as messages:
        second = events(messages, 2)[-1]
    with following(http, job_id, **{"Last-Event-ID": str(second.id)}) as messages:
        assert [one.data["message"] for one in events(messages, 2)] == ["c", "d"]
    refused = http.get(f"/jobs/{job_id}/events", params={"stream": "true"}, headers={"Last-Event-ID": "nonsense"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "Last-Event-ID")
    assert http.get("/jobs/job_none/events", params={"stream": "true"}).status_code == 404


def test_holds_no_connection_between_two_looks_and_none_after_a_client_left(
    http: httpx.Client, database: Database, project_id: str, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    real = streaming._look
    monkeypatch.setattr(streaming, "_look", lambda *asked: looks.append(1) or real(*asked))
    say(database, project_id, job_id, "a")
    idle = sa.text("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'")
    with following(http, job_id) as messages:
        events(messages, 1)
        with database.system_transaction() as session:
            assert session.scalar(idle) == 0
        seen = len(looks)
        wait_until(lambda: len(looks) > seen, seconds=30)  # while somebody listens it goes on looking
    count = -1

    def quiet() -> bool:
        nonlocal count
        before, count = count, len(looks)
        return before == count

    wait_until(lambda: quiet_for_a_while(quiet), seconds=30)


def quiet_for_a_while(quiet: Any) -> bool:
    """No look for longer than the longest pause between two."""
    quiet()
    threading.Event().wait(streaming._MOST_PAUSE + 0.5)
    return bool(quiet())


def test_says_that_it_is_there_while_nothing_happens(
    database: Database, project_id: str, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(streaming, "LONGEST_SECONDS", 1.5)
    followed = streaming.Following(project_id, job_id, event_object, None)

    async def all_of_it() -> list[str]:
        return [message async for message in streaming.messages(database, followed)]

    first, *rest = asyncio.run(all_of_it())
    assert first.startswith("event: progress\ndata: ")
    assert rest
    assert set(rest) == {": still here\n\n"}, "it ends after its longest time, without an end of the job"


def test_train_follows_the_stream_to_the_model(
    address: str, parts: Wiring, project_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    monkeypatch.setenv("OPENAI_API_KEY", project_id)
    monkeypatch.setenv("UPLIFT_HOME", str(parts.settings.home))
    rows = tmp_path / "sums.jsonl"
    turns = [[{"role": "user", "content": f"{n}+2?"}, {"role": "assistant", "content": str(n + 2)}] for n in range(8)]
    rows.write_text("".join(json.dumps({"messages": turn}) + "\n" for turn in turns))

    def work() -> None:
        waiting = sa.text("SELECT id FROM jobs WHERE status = 'queued'")
        found: list[str] = []

        def queued() -> bool:
            with parts.database.transaction(project_id) as session:
                found[:] = session.scalars(waiting)
            return bool(found)

        wait_until(queued, seconds=60)
        JobRunner(parts, JOB_HANDLERS, worker="test").run(project_id, found[0])

    worker = threading.Thread(target=work)
    worker.start()
    options = ["--data", str(rows), "--model", "tiny", "--validation", str(rows), "--suffix", "sums"]
    options += ["--set", "max_steps=3", "--set", "rank=2", "--set", "batch_size=4", "--set", "max_length=400"]
    shown = CliRunner().invoke(cli, ["train", *options])
    worker.join(60)
    assert shown.exit_code == 0, shown.output
    assert "step 3/3" in shown.output
    assert "validation loss" in shown.output
    assert "The job has successfully completed" in shown.output
    assert "Ask it: uplift ask ft:tiny:" in shown.output

    listed = httpx.get(f"{address}/fine_tuning/jobs", headers={"Authorization": f"Bearer {project_id}"}).json()
    assert listed["data"][0]["recipe"]["rank"] == 2
