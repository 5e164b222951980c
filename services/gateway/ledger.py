"""The layer around the routes that remembers: an audit entry for what changed, the first answer for what is repeated.

An answer leaves only after its entry and its record are committed (in one transaction), so whoever has seen it can
rely on both. Streamed answers are passed on as they come and never kept.
"""

import tempfile
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway import audit, idempotency, repository
from services.gateway.body_digest import BodyDigest
from services.gateway.idempotency import Answer, Claim
from services.gateway.scopes import PREFIX, changes_something
from shared.telemetry import logger
from shared.web import Caller
from shared.wiring import Wiring

log = logger(__name__)
_IN_MEMORY = 1 << 20
"""A form that is sent again is held to compare it, beyond this size on disk."""
_KEPT_HEADERS = ("content-type", "openai-poll-after-ms", "location")


class Ledger:
    """Wraps every request that changes something or carries an Idempotency-Key; others pass untouched."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        who = scope.get("state", {}).get("caller") if scope["type"] == "http" else None
        order = None if who is None else _Order.of(scope, who)
        if order is None:
            await self._app(scope, receive, send)
            return
        if order.key is None and order.is_retry:
            await self._retry(order, receive, send)
        elif order.key is None or not await self._answered_before(order, receive, send):
            await self._run(order, order.hearing(receive), send)

    async def _retry(self, order: "_Order", receive: Receive, send: Send) -> None:
        """What an equal request created a moment ago, else the request itself."""
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as held:
            hearing = receive if order.digest.complete else await order.digest.spool(receive, held)
            if hearing is None:
                return
            first = await run_in_threadpool(order.first_answer)
            if first is None:
                await self._run(order, hearing, send)
            else:
                await _replay(first, send)

    async def _answered_before(self, order: "_Order", receive: Receive, send: Send) -> bool:
        """Claim the key, or replay what it was used for."""
        found = await run_in_threadpool(order.claim_key)
        if found is None:
            return False
        first_sha256, answer = found
        if not order.digest.complete and not await order.digest.drain(receive):
            return True
        idempotency.check_same(first_sha256, order.digest.hexdigest())
        await _replay(answer, send)
        return True

    async def _run(self, order: "_Order", receive: Receive, send: Send) -> None:
        held = _Held(order, send)
        try:
            await self._app(order.scope, receive, held.send)
        except Exception:
            await run_in_threadpool(order.settle, 500, None)
            raise
        if not held.settled:  # a stream, or an answer too long to keep
            await run_in_threadpool(order.settle, held.status, None)


@dataclass
class _Order:
    """One request on its way: who sent it, how it may be recognised, what it has claimed."""

    scope: Scope
    who: Caller
    wiring: Wiring
    path: str
    changes: bool
    key: str | None
    retry_count: str | None
    digest: BodyDigest
    claim: Claim | None = field(default=None)

    @classmethod
    def of(cls, scope: Scope, who: Caller) -> "_Order | None":
        """None for a request that neither changes anything nor asks to be recognised."""
        headers, path = Headers(scope=scope), scope["path"].removeprefix(PREFIX)
        posts, changes = scope["method"] == "POST", changes_something(scope["method"], path)
        key = headers.get("idempotency-key") if posts else None
        if key is None and not changes:
            return None
        if key is not None:
            idempotency.check_key(key)
        digest = BodyDigest(scope["query_string"], headers.get("content-type", ""))
        body: bytes | None = scope["state"].get("body")
        if body is not None:
            digest.update(body, last=True)
        retry_count = headers.get("x-stainless-retry-count") if posts else None
        wiring = scope["app"].state.wiring
        return cls(scope, who, wiring, path, changes, key, retry_count, digest)

    def hearing(self, receive: Receive) -> Receive:
        """A channel for the routes; a form is digested as they read it."""
        return receive if self.digest.complete else self.digest.listening(receive)

    @property
    def is_retry(self) -> bool:
        return self.retry_count is not None and self.retry_count not in {"", "0"}

    def claim_key(self) -> tuple[str, Answer] | None:
        """The first request's digest and answer; None if this request is the first and now holds the claim."""
        assert self.key is not None
        known = self.digest.hexdigest() if self.digest.complete else None
        found = idempotency.claim(self.wiring.database, self.who, self.path, self.key, known)
        if isinstance(found, Claim):
            self.claim = found
            return None
        return found

    def first_answer(self) -> Answer | None:
        return idempotency.first_answer(self.wiring.database, self.who, self.path, self.digest.hexdigest())

    def settle(self, status: int, answer: Answer | None) -> None:
        """Write down how it ended; `answer` is None where there is none to keep."""
        logged = self.changes and audit.template(self.scope) is not None
        keeps = answer is not None and answer.worth_keeping and self.digest.complete
        remembers = keeps and self.claim is None and self.retry_count is not None and status < 300
        if not (logged or self.claim or remembers):
            return
        try:
            with self.wiring.database.transaction(self.who.project_id) as session:
                if logged:
                    body = answer.body if answer else b""
                    repository.add_audit_entry(session, audit.entry(self.who, self.scope, status, body))
                if self.claim is not None and not keeps:
                    repository.release_record(session, self.claim.record_id, self.claim.token)
                elif answer is not None and (self.claim is not None or remembers):
                    self._keep(session, answer)
        except SQLAlchemyError as error:
            # the request itself is done: its answer must not be lost over its record
            log.error("audit entry and first answer not written", path=self.path, status=status, error=str(error))

    def _keep(self, session: Any, answer: Answer) -> None:
        stored = idempotency.without_secrets(self.path, answer)
        sha256 = self.digest.hexdigest()
        content: dict[str, Any] = {"status": stored.status, "headers": stored.headers, "body": stored.body}
        if self.claim is not None:
            seconds = idempotency.KEPT_SECONDS
            repository.finish_record(
                session, self.claim.record_id, self.claim.token, request_sha256=sha256, seconds=seconds, **content
            )
        elif stored == answer:  # a retry of POST /keys makes a new key: the first one's text is lost for good
            record_id, seconds = idempotency.retry_id(self.who, self.path, sha256), idempotency.RETRY_SECONDS
            repository.keep_answer(
                session, self.who.project_id, record_id, request_sha256=sha256, seconds=seconds, **content
            )


class _Held:
    """Holds an answer back until it is written down; lets a stream, or what grows too long, pass."""

    def __init__(self, order: _Order, send: Send) -> None:
        self._order, self._send = order, send
        self._messages: list[Message] = []
        self._size = 0
        self._passing = False
        self.settled = False
        self.status = 500

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._passing = Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")
        if self._passing:
            await self._send(message)
            return
        self._messages.append(message)
        self._size += len(message.get("body", b""))
        if self._size > idempotency.MOST_BYTES:
            self._passing = True
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            await run_in_threadpool(self._order.settle, self.status, self._answer())
            self.settled = True
        else:
            return
        for held in self._messages:
            await self._send(held)
        self._messages.clear()

    def _answer(self) -> Answer:
        headers = Headers(raw=self._messages[0]["headers"])
        kept = {name: headers[name] for name in _KEPT_HEADERS if name in headers}
        body = b"".join(message.get("body", b"") for message in self._messages[1:])
        return Answer(self.status, kept, body)


async def _replay(answer: Answer, send: Send) -> None:
    headers = answer.headers | {"idempotency-replayed": "true", "content-length": str(len(answer.body))}
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    await send({"type": "http.response.body", "body": answer.body})
