"""The job protocol under faults, with real workers, a real dispatcher, Postgres and Valkey."""

import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa
import structlog

from shared import jobs
from shared.clock import now
from shared.database import Database
from shared.jobs.context import JobContext, LeaseLost
from shared.jobs.runner import claim
from shared.messages import Command
from shared.settings import Settings
from shared.task_queue import RUN_JOB, make_publisher
from shared.telemetry import trace_id_of
from shared.wiring import Wiring
from tests.fakes import processes
from tests.fakes.echo_worker import Crash, Freeze, Nap, NapEnded, Stumble
from tests.fakes.processes import wait_until

pytestmark = pytest.mark.stack
LEASE_AND_TEN = 12.0


@pytest.fixture(scope="module")
def dispatcher(stack_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    started = processes.dispatcher(stack_environment, tmp_path_factory.mktemp("dispatcher"))
    with processes.killed_at_the_end(started):
        yield


@pytest.fixture
def worker(stack_environment: dict[str, str], dispatcher: None, tmp_path: Path) -> Iterator[processes.Process]:
    started = processes.worker(stack_environment, tmp_path)
    with processes.killed_at_the_end(started):
        yield started


def order(database: Database, project_id: str, command: Command, **options: object) -> str:
    with database.transaction(project_id) as session:
        return jobs.send(session, project_id, command, **options).id  # type: ignore[arg-type]


def status(database: Database, project_id: str, job_id: str) -> str:
    return read(database, project_id, job_id).status


def read(database: Database, project_id: str, job_id: str) -> jobs.Job:
    with database.transaction(project_id) as session:
        return jobs.get(session, job_id)


def runs(database: Database, project_id: str, job_id: str) -> int:
    with database.transaction(project_id) as session:
        counted = sa.select(sa.func.count()).where(jobs.JobEvent.job_id == job_id, jobs.JobEvent.type == "ran")
        return session.scalar(counted) or 0


def test_runs_a_committed_job_once_and_tells_its_listener_once(
    database: Database, project_id: str, worker: processes.Process
) -> None:
    trace_id = trace_id_of(None)
    with structlog.contextvars.bound_contextvars(trace_id=trace_id):
        job_id = order(database, project_id, Nap(seconds=0), notify=NapEnded, parent_id="listener")
    wait_until(lambda: status(database, project_id, job_id) == "succeeded", seconds=10)
    with database.transaction(project_id) as session:
        heard, _ = jobs.listing(session, kind="test.nap_ended")
    wait_until(lambda: status(database, project_id, heard[0].id) == "succeeded", seconds=10)
    assert len(heard) == 1
    assert heard[0].payload["job_id"] == job_id
    assert heard[0].trace_id == trace_id
    assert runs(database, project_id, job_id) == 1


def test_runs_a_job_that_waits_for_its_moment_then_and_not_before(
    database: Database, project_id: str, worker: processes.Process
) -> None:
    due = now() + timedelta(seconds=2)
    job_id = order(database, project_id, Nap(seconds=0), run_after=due)
    wait_until(lambda: status(database, project_id, job_id) == "succeeded", seconds=20)
    ran = read(database, project_id, job_id)
    assert ran.started_at is not None
    assert ran.started_at >= due


def test_runs_nothing_when_the_transaction_rolls_back(
    database: Database, project_id: str, worker: processes.Process
) -> None:
    sent: list[str] = []

    def request_that_fails_after_the_send() -> None:
        with database.transaction(project_id) as session:
            sent.append(jobs.send(session, project_id, Nap()).id)
            raise RuntimeError("the request failed after the send")

    with pytest.raises(RuntimeError, match="after the send"):
        request_that_fails_after_the_send()
    with pytest.raises(jobs.control.JobNotFound):
        read(database, project_id, sent[0])


def test_runs_once_however_often_it_is_delivered(
    database: Database, settings: Settings, project_id: str, worker: processes.Process
) -> None:
    job_id = order(database, project_id, Nap(seconds=0.5))
    publisher = make_publisher(settings)
    for _ in range(20):
        publisher.send_task(RUN_JOB, args=[project_id, job_id], queue="test")
    wait_until(lambda: status(database, project_id, job_id) == "succeeded", seconds=10)
    time.sleep(0.5)
    publisher.close()
    assert runs(database, project_id, job_id) == 1


def test_sends_one_job_for_one_dedupe_key(database: Database, project_id: str, worker: processes.Process) -> None:
    first = order(database, project_id, Nap(), dedupe_key="the same")
    second = order(database, project_id, Nap(), dedupe_key="the same")
    assert first == second


def test_resumes_after_kill_nine_within_lease_and_ten_seconds(
    database: Database,
    project_id: str,
    worker: processes.Process,
    stack_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    job_id = order(database, project_id, Nap(seconds=1.5))
    wait_until(lambda: runs(database, project_id, job_id) == 1, seconds=10)
    worker.kill()
    second = processes.worker(stack_environment, tmp_path)
    with processes.killed_at_the_end(second):
        wait_until(lambda: read(database, project_id, job_id).attempt == 2, seconds=LEASE_AND_TEN)
        wait_until(lambda: status(database, project_id, job_id) == "succeeded", seconds=10)
    assert runs(database, project_id, job_id) == 2


def test_loses_no_job_when_redis_is_wiped(
    database: Database,
    settings: Settings,
    project_id: str,
    dispatcher: None,
    stack_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    sent = [order(database, project_id, Nap(), dedupe_key=str(i)) for i in range(20)]
    store = redis.Redis.from_url(settings.redis_url)
    wait_until(lambda: store.llen("test") >= len(sent), seconds=10)
    store.flushall()
    store.close()
    worker = processes.worker(stack_environment, tmp_path)
    with processes.killed_at_the_end(worker):
        wait_until(lambda: all(status(database, project_id, one) == "succeeded" for one in sent), seconds=30)
    assert [runs(database, project_id, one) for one in sent] == [1] * len(sent)


def test_fails_a_job_that_kills_every_worker_as_poisoned(
    database: Database, project_id: str, dispatcher: None, stack_environment: dict[str, str], tmp_path: Path
) -> None:
    job_id = order(database, project_id, Crash(), max_attempts=2)
    for attempt in (1, 2):
        worker = processes.worker(stack_environment, tmp_path)
        with processes.killed_at_the_end(worker):
            wait_until(worker.is_dead, seconds=LEASE_AND_TEN)
        assert read(database, project_id, job_id).attempt == attempt
    wait_until(lambda: status(database, project_id, job_id) == "failed", seconds=LEASE_AND_TEN)
    error = read(database, project_id, job_id).error
    assert error is not None
    assert error["code"] == "poisoned"


def test_tries_an_unexpected_error_again_and_names_the_last_one(
    database: Database, project_id: str, worker: processes.Process
) -> None:
    mends = order(database, project_id, Stumble(failures=1))
    never = order(database, project_id, Stumble(failures=9), max_attempts=1)
    wait_until(lambda: status(database, project_id, mends) == "succeeded", seconds=30)
    wait_until(lambda: status(database, project_id, never) == "failed", seconds=30)
    error = read(database, project_id, never).error
    assert error is not None
    assert "attempt 1 stumbles" in error["message"]


def test_cancels_waiting_work_at_once_and_running_work_soon(
    database: Database, project_id: str, worker: processes.Process
) -> None:
    running = order(database, project_id, Nap(seconds=30))
    wait_until(lambda: status(database, project_id, running) == "running", seconds=10)
    with database.transaction(project_id) as session:
        jobs.cancel(session, running)
    wait_until(lambda: status(database, project_id, running) == "cancelled", seconds=5)


def test_pauses_and_resumes_without_counting_an_attempt(
    database: Database, project_id: str, worker: processes.Process
) -> None:
    job_id = order(database, project_id, Nap(seconds=2))
    wait_until(lambda: status(database, project_id, job_id) == "running", seconds=10)
    with database.transaction(project_id) as session:
        jobs.pause(session, job_id)
    wait_until(lambda: status(database, project_id, job_id) == "paused", seconds=5)
    with database.transaction(project_id) as session:
        jobs.resume(session, job_id)
    wait_until(lambda: status(database, project_id, job_id) == "succeeded", seconds=15)
    assert read(database, project_id, job_id).attempt == 1


def test_hands_over_on_sigterm_and_counts_no_failure(
    database: Database, project_id: str, worker: processes.Process, stack_environment: dict[str, str], tmp_path: Path
) -> None:
    job_id = order(database, project_id, Nap(seconds=3))
    wait_until(lambda: status(database, project_id, job_id) == "running", seconds=10)
    worker.terminate()
    assert status(database, project_id, job_id) == "queued"
    second = processes.worker(stack_environment, tmp_path)
    with processes.killed_at_the_end(second):
        wait_until(lambda: status(database, project_id, job_id) == "succeeded", seconds=15)
    assert read(database, project_id, job_id).attempt == 1


def test_a_worker_that_stalls_past_its_lease_writes_nothing(
    database: Database, project_id: str, worker: processes.Process, stack_environment: dict[str, str], tmp_path: Path
) -> None:
    job_id = order(database, project_id, Nap(seconds=1.5))
    wait_until(lambda: status(database, project_id, job_id) == "running", seconds=10)
    worker.signal(signal.SIGSTOP)
    second = processes.worker(stack_environment, tmp_path)
    with processes.killed_at_the_end(second):
        wait_until(lambda: status(database, project_id, job_id) == "succeeded", seconds=LEASE_AND_TEN + 10)
        winner = read(database, project_id, job_id)
        worker.signal(signal.SIGCONT)
        time.sleep(2)
    after = read(database, project_id, job_id)
    assert winner.attempt == after.attempt == 2
    assert (after.finished_at, after.fence) == (winner.finished_at, winner.fence)


def test_a_worker_that_stops_while_it_holds_the_row_is_replaced_and_writes_nothing(
    database: Database, project_id: str, worker: processes.Process, stack_environment: dict[str, str], tmp_path: Path
) -> None:
    job_id = order(database, project_id, Freeze())
    wait_until(lambda: status(database, project_id, job_id) == "running", seconds=10)
    second = processes.worker(stack_environment, tmp_path)
    with processes.killed_at_the_end(second):
        wait_until(lambda: status(database, project_id, job_id) == "succeeded", seconds=LEASE_AND_TEN + 10)
        worker.signal(signal.SIGCONT)
        time.sleep(2)
    after = read(database, project_id, job_id)
    assert (after.attempt, after.result) == (2, {"attempt": 2})
    assert not worker.is_dead()


def test_refuses_a_write_under_an_old_fence(wiring: Wiring, project_id: str) -> None:
    import threading

    class Parked(Nap):
        queue = "test.parked"

    with wiring.database.transaction(project_id) as session:
        job_id = jobs.send(session, project_id, Parked()).id
    old = claim(wiring.database, project_id, job_id, worker="old", lease=60)
    assert old is not None
    with wiring.database.transaction(project_id) as session:
        row = jobs.get(session, job_id)
        row.status, row.lease_expires_at = "queued", None
    new = claim(wiring.database, project_id, job_id, worker="new", lease=60)
    assert new is not None
    assert new.fence > old.fence
    context = JobContext(old, wiring, threading.Event())
    with pytest.raises(LeaseLost), context.transaction() as session:
        context.succeed(session, {})
    assert read(wiring.database, project_id, job_id).status == "running"


def test_a_terminal_state_is_final(database: Database, project_id: str, worker: processes.Process) -> None:
    job_id = order(database, project_id, Nap())
    wait_until(lambda: status(database, project_id, job_id) == "succeeded", seconds=10)
    with (
        pytest.raises(sa.exc.DBAPIError, match="a terminal state is final"),
        database.transaction(project_id) as session,
    ):
        session.execute(sa.update(jobs.Job).where(jobs.Job.id == job_id).values(status="queued"))
    with pytest.raises(jobs.control.JobAlreadyEnded), database.transaction(project_id) as session:
        jobs.cancel(session, job_id)
