"""Repeated requests get their first answer: by `Idempotency-Key`, or because a client says that it tries again.

Records lie in Postgres, so that they outlive Redis and this process. A request claims its record before it runs; a
claim whose process died expires, and then the next request may run.

What a client tries again by itself (`x-stainless-retry-count`) is known by its API key, path and body alone. So a first
attempt takes the record over from any equal request before it: who orders the same twice gets two. As with a key, what
was answered by a stream to its end is not made again: its retry is a 409.
"""

import hashlib
import json
import re
import secrets
from dataclasses import dataclass
from typing import Any

from services.gateway import repository
from services.gateway.errors import (
    FirstAttemptRunning,
    IdempotencyKeyInUse,
    IdempotencyKeyInvalid,
    IdempotencyKeyReused,
    IdempotentAnswerNotKept,
)
from shared.database import Database
from shared.web import Caller

KEPT_SECONDS = 24 * 3600.0
RETRY_SECONDS = 60.0
"""How long a client that lost the first answer may ask again without an Idempotency-Key."""
IN_FLIGHT_SECONDS = 900.0
"""After which a request that never ended is taken for dead; longer than any answer may take."""
MOST_BYTES = 4 * 2**20
"""Of longer answers, and of streams, only the end is kept: the same request again is a 409."""
_NOT_KEPT = frozenset({401, 403, 408, 409, 413, 429, 499})
"""Answers about the moment, not about the request: trying again later is right."""
_LONGEST_KEY = 255
_SETS_A_STATE = re.compile(
    r"(?:jobs|fine_tuning/jobs|searches)/[^/]+/(?:pause|resume)"
    r"|chat/completions/[^/]+|evals/[^/]+|vector_stores/[^/]+(?:/files/[^/]+)?|releases"
)
"""What sets a state that another request may set back (pause, resume, pause): a retry must run, and finds at worst that
the state is there already. All other POSTs make something, or end something for good."""


@dataclass(frozen=True)
class Answer:
    """A whole answer, as it was sent; without its `body` if that was streamed, or longer than is kept."""

    status: int
    headers: dict[str, str]
    body: bytes | None

    @property
    def worth_keeping(self) -> bool:
        return self.status < 500 and self.status not in _NOT_KEPT


@dataclass(frozen=True)
class Claim:
    """The right to answer for a record."""

    record_id: str
    token: str


def check_key(key: str) -> None:
    if not 0 < len(key) <= _LONGEST_KEY or not key.isprintable():
        raise IdempotencyKeyInvalid(f"Idempotency-Key must be 1 to {_LONGEST_KEY} printable characters.")


def claim(
    database: Database, who: Caller, path: str, key: str, request_sha256: str | None
) -> Claim | tuple[str, Answer]:
    """The right to run the request, or the digest and answer of the first one.

    Raises IdempotencyKeyInUse while the first is in flight and IdempotencyKeyReused where it is known already that
    it was another request.
    """
    wanted = Claim(_digest("key", path, key), secrets.token_hex(16))
    with database.transaction(who.project_id) as session:
        found = repository.claim_record(
            session, who.project_id, wanted.record_id, wanted.token, request_sha256, IN_FLIGHT_SECONDS
        )
    if found is None:
        return wanted
    if found.request_sha256 is not None and request_sha256 is not None:
        check_same(found.request_sha256, request_sha256)
    if found.status is None:
        raise IdempotencyKeyInUse(
            "The first request with this Idempotency-Key is still running. Ask again when it has ended."
        )
    return found.request_sha256 or "", Answer(found.status, dict(found.headers or {}), found.body)


def check_kept(answer: Answer) -> None:
    if answer.body is None:
        raise IdempotentAnswerNotKept(
            "This request was answered already, by a stream or by an answer too long to keep. To have it answered "
            "again, draw a new Idempotency-Key, or send it as a request of its own and not as a retry."
        )


def check_same(first: str, second: str) -> None:
    if first != second:
        raise IdempotencyKeyReused(
            "This Idempotency-Key was used for another request. Draw a new key for every new request."
        )


def remembers_attempts(path: str) -> bool:
    """Whether a POST to `path` (without the prefix /v1) that its client tries again must not run twice."""
    return _SETS_A_STATE.fullmatch(path.rstrip("/")) is None


def first_attempt(database: Database, who: Caller, path: str, request_sha256: str) -> Claim:
    """The claim of a request without an Idempotency-Key that its client sends for the first time."""
    taken = Claim(_attempts_id(who, path, request_sha256), secrets.token_hex(16))
    with database.transaction(who.project_id) as session:
        repository.take_record(session, who.project_id, taken.record_id, taken.token, request_sha256, IN_FLIGHT_SECONDS)
    return taken


def next_attempt(database: Database, who: Caller, path: str, request_sha256: str) -> Claim | Answer:
    """What an equal request of this API key created within the last minute, or the right to run it now.

    Raises FirstAttemptRunning while that request is in flight.
    """
    wanted = Claim(_attempts_id(who, path, request_sha256), secrets.token_hex(16))
    with database.transaction(who.project_id) as session:
        found = repository.claim_record(
            session, who.project_id, wanted.record_id, wanted.token, request_sha256, IN_FLIGHT_SECONDS
        )
    if found is None:
        return wanted
    if found.status is None:
        raise FirstAttemptRunning("The first attempt at this request is still running. Ask again in a moment.")
    return Answer(found.status, dict(found.headers or {}), found.body)


def _attempts_id(who: Caller, path: str, request_sha256: str) -> str:
    return _digest("retry", who.key_id, path, request_sha256)


def without_secrets(path: str, answer: Answer) -> Answer:
    """The answer as it may be stored: the text of a new API key is shown once and written nowhere."""
    if path.split("/", 1)[0] != "keys" or answer.body is None:
        return answer
    shown: dict[str, Any] = json.loads(answer.body)
    return Answer(answer.status, answer.headers, json.dumps(shown | ({"key": None} if "key" in shown else {})).encode())


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
