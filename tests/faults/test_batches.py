"""Batches survive their workers; in a file of its own, since no other worker may take the jobs."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
import sqlalchemy as sa

from services.evaluation.batches.tables import BatchAnswer
from shared.database import Database
from shared.settings import Settings
from shared.wiring import Wiring
from tests.fakes.processes import Process, dispatcher, killed_at_the_end, wait_until, worker
from tests.integration.test_batches import ask, door, finished, make_home, order, read

pytestmark = pytest.mark.stack
Start = Callable[[str], Process]


@pytest.fixture
def parts(settings: Settings, tmp_path: Path) -> Iterator[Wiring]:
    wired = Wiring.from_settings(settings.model_copy(update={"home": make_home(tmp_path / "home")}))
    yield wired
    wired.close()


@pytest.fixture
def client(parts: Wiring, project_id: str) -> openai.OpenAI:
    http = door(parts, project_id)
    return openai.OpenAI(api_key="any", base_url="http://testserver/v1", http_client=http, max_retries=0)


@pytest.fixture
def start(stack_environment: dict[str, str], parts: Wiring, tmp_path: Path) -> Start:
    environment = stack_environment | {"UPLIFT_HOME": str(parts.settings.home)}

    def started(app: str) -> Process:
        if app == "dispatcher":
            return dispatcher(environment, tmp_path)
        return worker(environment, tmp_path, app=app, slots=40 if app.startswith("tests") else 1)

    return started


def test_asks_no_line_twice_after_a_kill(
    client: openai.OpenAI, start: Start, database: Database, parts: Wiring, project_id: str
) -> None:
    held = [ask(f"held{n}", "When allowed, answer") for n in range(20)]
    ordered = order(client, [*(ask(f"q{n}", f"What is {n}?") for n in range(40)), *held])
    first = start("services.evaluation.worker")
    answering = start("tests.fakes.answering_without_models")
    with killed_at_the_end(answering, first, start("dispatcher")):
        wait_until(lambda: len(answers(database, project_id)) == 40, seconds=60)
        first.kill()
        before = answers(database, project_id)
        running = client.batches.retrieve(ordered.id)
        assert running.request_counts is not None
        assert (running.status, running.request_counts.completed) == ("in_progress", 40)
        allow(parts)
        with killed_at_the_end(start("services.evaluation.worker")):
            done = finished(client, ordered.id)
    assert done.request_counts is not None
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 60, 0)
    written = {name: line["response"]["request_id"] for name, line in read(client, done.output_file_id).items()}
    assert len(written) == 60
    assert {name: written[name] for name in before} == before


def allow(parts: Wiring) -> None:
    (parts.settings.home / "allowed").touch()


def answers(database: Database, project_id: str) -> dict[str, str]:
    """The request that answered each line, by custom_id."""
    with database.transaction(project_id) as session:
        query = sa.select(BatchAnswer.custom_id, BatchAnswer.request_id)
        return {row.custom_id: row.request_id for row in session.execute(query)}


def test_cancels_what_no_worker_has_taken_yet(client: openai.OpenAI, start: Start) -> None:
    ordered = order(client, [ask("a", "Hi")])
    assert client.batches.cancel(ordered.id).status == "cancelling"
    assert client.batches.cancel(ordered.id).status == "cancelling"
    with killed_at_the_end(start("services.evaluation.worker"), start("dispatcher")):
        done = finished(client, ordered.id)
    assert (done.status, done.output_file_id, done.error_file_id) == ("cancelled", None, None)


def test_waits_for_workers_that_are_not_there_yet(client: openai.OpenAI, start: Start) -> None:
    ordered = order(client, [ask("a", "Hi")])
    with killed_at_the_end(start("services.evaluation.worker"), start("dispatcher")):
        wait_until(lambda: client.batches.retrieve(ordered.id).status == "in_progress", seconds=60)
        with killed_at_the_end(start("tests.fakes.answering_without_models")):
            done = finished(client, ordered.id)
    assert done.status == "completed"
    body = read(client, done.output_file_id)["a"]["response"]["body"]
    assert json.loads(body["choices"][0]["message"]["content"])["messages"][-1]["content"] == "Hi"


def test_hands_a_batch_over_when_its_worker_is_told_to_stop(client: openai.OpenAI, start: Start, parts: Wiring) -> None:
    ordered = order(client, [ask("quick", "Hi"), ask("held", "When allowed, answer")])
    first = start("services.evaluation.worker")
    answering = start("tests.fakes.answering_without_models")
    with killed_at_the_end(answering, first, start("dispatcher")):
        wait_until(lambda: client.batches.retrieve(ordered.id).status == "in_progress", seconds=60)
        first.terminate(30)
        allow(parts)
        with killed_at_the_end(start("services.evaluation.worker")):
            done = finished(client, ordered.id)
    assert done.request_counts is not None
    assert (done.status, done.request_counts.completed) == ("completed", 2)
