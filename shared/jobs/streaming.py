"""A job's events as server-sent events: each once, in order, until the job ends."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from shared.database import Database
from shared.jobs import control
from shared.jobs.tables import TERMINAL, Job, JobEvent

HEARTBEAT_SECONDS = 15.0
"""A comment goes out after so long without news: proxies cut silent connections, and a client that is gone shows."""
LONGEST_SECONDS = 3600.0
"""A stream ends after this even if the job does not, so that a revoked key does not listen on for ever; the client
connects again with its `Last-Event-ID`, as browsers do by themselves."""
_LEAST_PAUSE, _MOST_PAUSE = 0.25, 2.0
_EVENTS_AT_ONCE = 100


@dataclass(frozen=True)
class Following:
    """What a stream follows, and how its events are written."""

    project_id: str
    job_id: str
    render: Callable[[JobEvent], dict[str, Any]]
    after: int | None
    """The number of the last event that the client knows; None sends them from the first."""


def stream(database: Database, following: Following) -> StreamingResponse:
    """The answer to a client that wants to follow a job; the caller has checked that the job is the project's."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(messages(database, following), media_type="text/event-stream", headers=headers)


async def messages(database: Database, following: Following) -> AsyncIterator[str]:
    """The messages of one stream.

    Events come as they are listed, with their number as `id`. In between, `event: progress` tells the job's status and
    progress when they change; the last message is `event: end` with the status. Between two looks the database is not
    held: every look is one short transaction.
    """
    began = spoken = time.monotonic()
    after, told, pause = following.after, "", _LEAST_PAUSE
    while time.monotonic() - began < LONGEST_SECONDS:
        # the state is read before the events: what a job says before its end is then among them
        job, events = await run_in_threadpool(_look, database, following, after)
        for event in events:
            after = event.id
            told_event = following.render(event)
            yield _message(told_event, id=told_event["id"])
        state = {"status": job.status, "progress": job.progress, "error": job.error}
        if job.status in TERMINAL and len(events) < _EVENTS_AT_ONCE:
            yield _message(state, event="end")
            return
        news = json.dumps(state)
        if news != told:
            told = news
            yield _message(state, event="progress")
        elif not events and time.monotonic() - spoken >= HEARTBEAT_SECONDS:
            yield ": still here\n\n"
        elif not events:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MOST_PAUSE)
            continue
        spoken, pause = time.monotonic(), _LEAST_PAUSE
        if len(events) < _EVENTS_AT_ONCE:
            await asyncio.sleep(pause)


def _look(database: Database, following: Following, after: int | None) -> tuple[Job, list[JobEvent]]:
    with database.transaction(following.project_id) as session:
        job = control.get(session, following.job_id)
        found, _ = control.events(session, following.job_id, after=after, limit=_EVENTS_AT_ONCE, newest_first=False)
        return job, found


def _message(data: dict[str, Any], **head: str) -> str:
    return "".join(f"{name}: {value}\n" for name, value in head.items()) + f"data: {json.dumps(data)}\n\n"
