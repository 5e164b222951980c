"""The limits of a request's body, kept while it streams in and before anything parses it.

A body that is not a form is at most `max_json_bytes` and is held here once; a form (an upload) passes through and is
only counted. Whatever is refused is refused with at most one ceiling's worth of bytes read and memory used.
"""

import codecs
import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import InvalidInput, PayloadTooLarge

_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})
_INLINE_BYTES = 1 << 16
"""Bodies up to this size are checked on the event loop: a thread costs more than the check."""
_FORM_OVERHEAD = 1 << 16
"""What boundaries and small fields may add to a form beyond its file."""


class UnsupportedEncoding(InvalidInput):
    status = 415
    code = "unsupported_encoding"


class InvalidJson(InvalidInput):
    code = "invalid_json"


class BodyTooLarge(PayloadTooLarge):
    code = "body_too_large"


@dataclass(frozen=True)
class BodyLimits:
    """Bytes of a JSON body, bytes of an uploaded file, levels of JSON."""

    json_bytes: int
    upload_bytes: int
    depth: int


class BoundedBodies:
    """Count bytes as they come; answer 413, 415 or 400 early, without asking the client for the rest."""

    def __init__(
        self, app: ASGIApp, limits: Callable[[Scope], BodyLimits], respond: Callable[[Exception], Response]
    ) -> None:
        self._app = app
        self._limits = limits
        self._respond = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _WITHOUT_BODY:
            await self._app(scope, receive, send)
            return
        limits, headers = self._limits(scope), Headers(scope=scope)
        form = headers.get("content-type", "").lower().startswith("multipart/")
        bounded = _Bounded(receive, limits.upload_bytes + _FORM_OVERHEAD if form else limits.json_bytes)
        try:
            _refuse_encoding(headers)
            bounded.refuse_announced(headers)
            if form:
                await self._app(scope, bounded.receive, bounded.sender(send, self._respond, scope))
                return
            body = await bounded.whole()
            if body is None:
                return
            if _says_json(headers):
                await _check(body, limits.depth)
        except BodyTooLarge as error:
            await _hang_up(self._respond(error), scope, receive, send)
            return
        scope["state"]["body"] = body
        await self._app(scope, _given(body, receive), send)


class _Bounded:
    """A receive channel that raises BodyTooLarge at the first byte past its limit."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most, self._seen = receive, most, 0
        self._error: BodyTooLarge | None = None

    def refuse_announced(self, headers: Headers) -> None:
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > self._most:
            raise self._too_large(f"is {announced} bytes long")

    async def receive(self) -> Message:
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        if self._seen > self._most:
            self._error = self._too_large("goes on")
            raise self._error
        return message

    async def whole(self) -> bytes | None:
        """The body; None if the client hung up in its middle: half an order is none."""
        parts: list[bytes] = []
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                return b"".join(parts)

    def sender(self, send: Send, respond: Callable[[Exception], Response], scope: Scope) -> Send:
        """A send channel that tells of the limit whatever a form parser made of the error that stopped it."""
        replaced = False

        async def sending(message: Message) -> None:
            nonlocal replaced
            if self._error is None:
                await send(message)
            elif not replaced:
                replaced = True
                await _hang_up(respond(self._error), scope, self._receive, send)

        return sending

    def _too_large(self, how: str) -> BodyTooLarge:
        return BodyTooLarge(f"The request's body {how}; at most {self._most} bytes are read here.")


def _given(body: bytes, receive: Receive) -> Receive:
    """A channel that hands `body` out once and then waits for the client's goodbye."""
    given = False

    async def giving() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return giving


async def _hang_up(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer, and let the server close the connection: the rest of the body is on its way and nobody will read it."""
    response.headers["connection"] = "close"
    await response(scope, receive, send)


def _refuse_encoding(headers: Headers) -> None:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise UnsupportedEncoding(
            f"Content-Encoding {encoding[:40]!r} is not read here (a small body may unpack to a huge one); "
            "send the body as it is."
        )


def _says_json(headers: Headers) -> bool:
    kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


async def _check(body: bytes, depth: int) -> None:
    if len(body) <= _INLINE_BYTES:
        check_json(body, depth)
    else:
        await run_in_threadpool(check_json, body, depth)


_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NOT_A_NUMBER = re.compile(rb"NaN|Infinity")
_HUGE = re.compile(rb"[0-9.]+[eE]\+?[0-9]{3,}|[0-9]{300,}")
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_BRACKETS = bytes.maketrans(b"[]{}", b"()()")
_REST = bytes(set(range(256)) - set(b"[]{}"))
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""UTF-32's marks begin with the one or with a NUL."""


def check_json(body: bytes, depth: int) -> None:
    """Raise InvalidJson for what a parser would accept and a database or a recursion would not.

    That is: bytes that are no UTF-8, NaN and infinite numbers, the character NUL, half a surrogate pair, and more than
    `depth` levels. Whether the rest is JSON is left to the parser. Takes time in proportion to the body's length.
    """
    # the parser would guess UTF-16 or UTF-32 by them, and read another text than the one that is checked here
    if b"\0" in body or body.startswith(_WIDE):
        raise InvalidJson("The body is UTF-16 or UTF-32, or has a raw byte NUL; JSON is sent as UTF-8 (RFC 8259).")
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise InvalidJson(f"The body is not UTF-8: byte {error.start} is {body[error.start]:#04x}.") from error
    if b"\\u" in body:
        _check_escapes(body)
    bare = _STRING.sub(b"", body)
    if found := _NOT_A_NUMBER.search(bare):
        raise InvalidJson(f"JSON has no {found.group().decode()}.")
    if any(number == float("inf") for number in map(float, _HUGE.findall(bare))):
        raise InvalidJson("The body has a number beyond what 64 bits of floating point hold.")
    if _is_deeper(bare, depth):
        raise InvalidJson(f"The body is nested more than {depth} levels deep.")


def _is_deeper(bare: bytes, depth: int) -> bool:
    """Whether brackets nest deeper; unbalanced ones are the parser's to refuse. `bare` has no strings."""
    if bare.count(b"[") + bare.count(b"{") <= depth:
        return False
    brackets = bare.translate(_BRACKETS, _REST)
    for _ in range(depth):  # every pass takes the innermost level away
        fewer = brackets.replace(b"()", b"")
        if len(fewer) == len(brackets):
            # nothing closes: what is left opens only, or is broken
            return len(brackets) - brackets.count(b")") > depth
        brackets = fewer
    return bool(brackets)


def _check_escapes(body: bytes) -> None:
    if _NUL.search(body):
        raise InvalidJson("A text in the body has the character NUL (\\u0000), which cannot be stored.")
    if _SURROGATE.search(body):
        try:
            json.dumps(json.loads(body), ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InvalidJson("A text in the body has half a surrogate pair (\\ud800 to \\udfff).") from error
        except (ValueError, RecursionError):
            return  # no JSON, or too deep: both are refused elsewhere
