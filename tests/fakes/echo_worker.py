"""A real worker with toy orders: sleep in small steps, crash the process, echo a live request."""

import os
import signal
import time
from typing import Any, ClassVar

from shared.jobs import JobContext
from shared.live import LiveContext
from shared.messages import Command, JobEnded
from shared.settings import Settings
from shared.task_queue import make_worker_app
from shared.telemetry import bound
from shared.wiring import Wiring


class Nap(Command):
    """Work for a while, in steps of 50 ms, saying each step once."""

    kind: ClassVar[str] = "test.nap"
    queue: ClassVar[str] = "test"
    seconds: float = 0.0


class Crash(Command):
    """Take the whole worker process down, as a kernel out of memory would."""

    kind: ClassVar[str] = "test.crash"
    queue: ClassVar[str] = "test"


class Freeze(Command):
    """On the first attempt, stop the whole worker process while it holds the job's row."""

    kind: ClassVar[str] = "test.freeze"
    queue: ClassVar[str] = "test"


class Stumble(Command):
    """Raise on the first attempts, then succeed."""

    kind: ClassVar[str] = "test.stumble"
    queue: ClassVar[str] = "test"
    failures: int = 1


class NapEnded(JobEnded):
    """Hear of a nap's end."""

    kind: ClassVar[str] = "test.nap_ended"
    queue: ClassVar[str] = "test"


def nap(context: JobContext, order: Nap) -> None:
    context.event(f"attempt {context.job.attempt}", type="ran")
    until = time.monotonic() + order.seconds
    while time.monotonic() < until:
        context.check()
        context.progress(0, order.seconds, "seconds")
        time.sleep(0.05)
    with context.transaction() as session:
        context.succeed(session, {"napped": order.seconds})


def crash(_context: JobContext, _order: Crash) -> None:
    os._exit(137)


def freeze(context: JobContext, _order: Freeze) -> None:
    with context.transaction() as session:
        if context.job.attempt == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        context.succeed(session, {"attempt": context.job.attempt})


def stumble(context: JobContext, order: Stumble) -> None:
    if context.job.attempt <= order.failures:
        raise ValueError(f"attempt {context.job.attempt} stumbles")
    with context.transaction() as session:
        context.succeed(session, {})


def nap_ended(context: JobContext, event: NapEnded) -> None:
    context.event(event.status, type="heard")
    with context.transaction() as session:
        context.succeed(session, {"heard": event.job_id, "status": event.status})


def echo(context: LiveContext, body: dict[str, Any]) -> dict[str, Any]:
    for word in str(body["text"]).split():
        context.emit({"text": word})
    until = time.monotonic() + body.get("seconds", 0)
    while time.monotonic() < until:
        if context.cancelled():
            return {"text": "cancelled"}
        time.sleep(0.02)
    return {"text": body["text"], "trace_id": bound("trace_id")}


app = make_worker_app(
    "echo",
    ["test", "test.interactive"],
    lambda: Wiring.from_settings(Settings()),
    {Nap: nap, Crash: crash, Freeze: freeze, Stumble: stumble, NapEnded: nap_ended},
    {"test.echo": echo},
)
