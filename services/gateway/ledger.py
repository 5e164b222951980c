"""The layer around the routes that remembers: an audit entry for what changed, the first answer for what is repeated.

An answer leaves only after its entry and its record are committed (in one transaction), so whoever has seen it can
rely on both. Streamed answers are passed on as they come; of them, and of very long ones, only the end is written down.
"""

import asyncio
import tempfile
import time
from dataclasses import dataclass, field

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway import audit, idempotency, repository
from services.gateway.body_digest import BodyDigest
from services.gateway.errors import FirstAttemptRunning
from services.gateway.idempotency import Answer, Claim
from services.gateway.kept_chats import keeps_answer
from services.gateway.scopes import PREFIX, changes_something
from shared.telemetry import logger
from shared.web import Caller
from shared.wiring import Wiring

log = logger(__name__)
_IN_MEMORY = 1 << 20
"""A form that is sent again is held to compare it, beyond this size on disk."""
_LOOK_SECONDS, _PATIENCE_SECONDS = 0.25, 5.0
"""How often, and how long, a retry looks whether its first attempt has ended; then its client is told to ask again."""
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
        if order.key is not None:
            if not await self._answered_before(order, receive, send):
                await self._run(order, order.hearing(receive), send)
        elif order.is_retry and order.remembered:
            await self._retry(order, receive, send)
        else:
            await self._run(order, await order.attempting(receive), send)

    async def _retry(self, order: "_Order", receive: Receive, send: Send) -> None:
        """What an equal request creates or created a moment ago, else the request itself."""
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as held:
            hearing = receive if order.digest.complete else await order.digest.spool(receive, held)
            if hearing is None:
                return
            first = await order.first_answer()
            if first is None:
                await self._run(order, hearing, send)
                return
            idempotency.check_kept(first)
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
        idempotency.check_kept(answer)
        await _replay(answer, send)
        return True

    async def _run(self, order: "_Order", receive: Receive, send: Send) -> None:
        held = _Held(order, send)
        try:
            await self._app(order.scope, receive, held.send)
        except Exception:
            await run_in_threadpool(order.settle, 500, None)
            raise
        if not held.settled:  # a stream, or an answer too long to keep; one that broke off may be asked for again
            await run_in_threadpool(order.settle, held.status, Answer(held.status, {}, None) if held.ended else None)


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
        method, body = scope["method"], scope["state"].get("body")
        posts, changes = method == "POST", changes_something(method, path) or keeps_answer(method, path, body)
        key = headers.get("idempotency-key") if posts else None
        if key is None and not changes:
            return None
        if key is not None:
            idempotency.check_key(key)
        digest = BodyDigest(scope["query_string"], headers.get("content-type", ""))
        if body is not None:
            digest.update(body, last=True)
        retry_count = headers.get("x-stainless-retry-count") if posts else None
        wiring = scope["app"].state.wiring
        return cls(scope, who, wiring, path, changes, key, retry_count, digest)

    def hearing(self, receive: Receive) -> Receive:
        """A channel for the routes; a form is digested as they read it."""
        return receive if self.digest.complete else self.digest.listening(receive)

    async def attempting(self, receive: Receive) -> Receive:
        """The same; a first attempt is claimed once its body is known, before the routes have all of it."""
        if not self.remembered:
            return self.hearing(receive)
        if self.digest.complete:
            await run_in_threadpool(self.claim_attempt)
            return receive
        heard = self.digest.listening(receive)

        async def claiming() -> Message:
            message = await heard()
            if self.digest.complete and self.claim is None:
                await run_in_threadpool(self.claim_attempt)
            return message

        return claiming

    @property
    def is_retry(self) -> bool:
        return self.retry_count not in {None, "", "0"}

    @property
    def remembered(self) -> bool:
        """Whether its client may try it again by itself, and then must not do it twice."""
        return self.retry_count is not None and idempotency.remembers_attempts(self.path)

    def claim_key(self) -> tuple[str, Answer] | None:
        """The first request's digest and answer; None if this request is the first and now holds the claim."""
        assert self.key is not None
        known = self.digest.hexdigest() if self.digest.complete else None
        found = idempotency.claim(self.wiring.database, self.who, self.path, self.key, known)
        if isinstance(found, Claim):
            self.claim = found
            return None
        return found

    def claim_attempt(self) -> None:
        """Claim what is sent for the first time."""
        self.claim = idempotency.first_attempt(self.wiring.database, self.who, self.path, self.digest.hexdigest())

    async def first_answer(self) -> Answer | None:
        """What an earlier attempt was answered, which is waited for a while; None if this one now holds the claim."""
        patience = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return await run_in_threadpool(self._claim_retry)
            except FirstAttemptRunning:
                if time.monotonic() > patience:
                    raise
                await asyncio.sleep(_LOOK_SECONDS)

    def _claim_retry(self) -> Answer | None:
        found = idempotency.next_attempt(self.wiring.database, self.who, self.path, self.digest.hexdigest())
        if isinstance(found, Answer):
            return found
        self.claim = found
        return None

    def settle(self, status: int, answer: Answer | None) -> None:
        """Write down how it ended; `answer` is None where there is none to keep."""
        logged = self.changes and audit.template(self.scope) is not None
        if not (logged or self.claim):
            return
        try:
            with self.wiring.database.transaction(self.who.project_id) as session:
                if logged:
                    body = answer.body if answer else None
                    repository.add_audit_entry(session, audit.entry(self.who, self.scope, status, body or b""))
                if self.claim is not None:
                    self._settle_claim(session, self.claim, answer)
        except SQLAlchemyError as error:
            # the request itself is done: its answer must not be lost over its record
            log.error("audit entry and first answer not written", path=self.path, status=status, error=str(error))

    def _settle_claim(self, session: Session, claim: Claim, answer: Answer | None) -> None:
        """Keep what a repeated request is to be answered; where there is nothing, let it run."""
        stored = None if answer is None or not self.digest.complete else self._stored(answer)
        if stored is None:
            repository.release_record(session, claim.record_id, claim.token)
            return
        repository.finish_record(
            session,
            claim.record_id,
            claim.token,
            request_sha256=self.digest.hexdigest(),
            status=stored.status,
            headers=stored.headers,
            body=stored.body,
            seconds=idempotency.RETRY_SECONDS if self.key is None else idempotency.KEPT_SECONDS,
        )

    def _stored(self, answer: Answer) -> Answer | None:
        stored = idempotency.without_secrets(self.path, answer) if answer.worth_keeping else None
        if self.key is None and (answer.status >= 300 or stored != answer):
            return None  # a retry of POST /keys makes a new key: the first one's text is lost for good
        return stored


class _Held:
    """Holds an answer back until it is written down; lets a stream, or what grows too long, pass."""

    def __init__(self, order: _Order, send: Send) -> None:
        self._order, self._send = order, send
        self._messages: list[Message] = []
        self._size = 0
        self._passing = False
        self.settled = False
        self.ended = False
        self.status = 500

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._passing = Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")
        ends = message["type"] == "http.response.body" and not message.get("more_body", False)
        if self._passing:
            await self._send(message)
            self.ended = ends
            return
        self._messages.append(message)
        self._size += len(message.get("body", b""))
        if self._size > idempotency.MOST_BYTES:
            self._passing, self.ended = True, ends
        elif ends:
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
    body = answer.body or b""
    headers = answer.headers | {"idempotency-replayed": "true", "content-length": str(len(body))}
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
