"""What both ends of a live request agree on: replies, their errors, the request's clock, reading a stream."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shared.errors import DeadlineExceeded, RemoteError, TooManyRequests, UpliftError
from shared.ids import new_id
from shared.telemetry import bound

CANCELLATIONS = "uplift:cancellations"
STREAM_LENGTH = 50_000
STREAM_EXPIRY_SECONDS = 3600
SIGN_SECONDS = 5.0
"""How often a worker says of a request in flight that it is still there."""
SILENCE_SECONDS = 30.0
"""Without a sign for so long an admitted request's worker counts as dead, long before the answer's own deadline."""
GIVEN_UP = "given up"
"""What an asking thread hears when its answer is no longer wanted; it never crosses the wire."""
QUEUE_WAIT_SECONDS = {"interactive": 60.0, "batch": 600.0}


@dataclass(frozen=True)
class Reply:
    """One piece of an answer: a "delta" or the final "done"."""

    kind: str
    data: dict[str, Any]


class QueueFull(TooManyRequests):
    """The workers are behind; the caller should come back after `retry_after` seconds."""


class WorkerSilent(DeadlineExceeded):
    """No worker admitted the request, or the one that did fell silent."""

    code = "worker_silent"


class GivenUp(UpliftError):
    """Whoever asked many at once wants no more answers."""

    status = 499
    code = "given_up"


class Call:
    """One request's clock: it waits `queue_wait` to be admitted, then `timeout_s` for its end, and never longer than
    SILENCE_SECONDS without a sign of its worker."""

    def __init__(self, queue_name: str, kind: str, project_id: str, timeout_s: float, request_id: str | None) -> None:
        self.id = f"{request_id or bound('request_id') or 'live'}.{new_id('')}"
        self.trace_id = bound("trace_id")
        self.queue, self.kind, self.project_id, self.timeout_s = queue_name, kind, project_id, timeout_s
        self.is_batch = queue_name.endswith(".batch")
        self.queue_wait = QUEUE_WAIT_SECONDS["batch" if self.is_batch else "interactive"]
        self._deadline = time.monotonic() + self.queue_wait
        self._silent_at = self._deadline
        self._admitted = False

    def patience(self) -> float:
        return max(0.0, min(self._deadline, self._silent_at) - time.monotonic())

    def hear(self, what: str, data: dict[str, Any]) -> Reply | None:
        now = time.monotonic()
        self._silent_at = now + SILENCE_SECONDS
        if not self._admitted:
            self._admitted = True
            # the worker keeps the deadline; the extra seconds let its own error arrive first
            self._deadline = now + self.timeout_s + 5.0
        if what == "admitted":  # for the first time, or as a sign of life
            return None
        if what == GIVEN_UP:
            raise GivenUp("The answer is no longer wanted.")
        if what == "error":
            raise RemoteError(data)
        return Reply(what, data)

    def silence(self) -> WorkerSilent:
        if self._admitted and self._silent_at < self._deadline:
            return WorkerSilent(f"The worker gave no sign for {SILENCE_SECONDS:.0f} s; it may have died. Ask again.")
        if self._admitted:
            return WorkerSilent(f"The worker did not finish within {self.timeout_s:.0f} s and fell silent.")
        return WorkerSilent(
            f"No worker of {self.queue} took the request within {self.queue_wait:.0f} s. "
            "Is one running? `uplift status` shows the workers and their queues."
        )


def raw_entries(found: Any) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of an XREAD answer on one stream, as they come over the wire (RESP2)."""
    for entry_id, fields in found[0][1] if found else ():
        yield entry_id, dict(zip(fields[::2], fields[1::2], strict=True))


def entries(found: Any) -> Iterator[tuple[str, dict[bytes, bytes]]]:
    """The entries of an XREAD answer on one stream, whichever protocol version shaped it."""
    streams = found.values() if isinstance(found, dict) else [of_one for _, of_one in found or []]
    for of_one in streams:
        # the newer protocol wraps the entries of a stream in one more list
        nested = of_one and isinstance(of_one[0], list) and of_one[0] and isinstance(of_one[0][0], (tuple, list))
        flat = of_one[0] if nested and isinstance(of_one[0][0][0], bytes) else of_one
        for entry_id, fields in flat:
            yield entry_id.decode(), fields


def read_reply(fields: dict[bytes, bytes]) -> tuple[str, str, dict[str, Any]]:
    """An entry of a reply stream: whose it is, its kind, its data."""
    return fields[b"r"].decode(), fields[b"k"].decode(), json.loads(fields[b"d"])
