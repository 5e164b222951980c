"""A client on a bare socket, for measurements: what a client library does is none of the server's cost."""

import http.client
import io
import itertools
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

MODEL = "smollm2-135m-instruct"
QUESTION = "Count from one to one hundred in words, separated by commas. Begin at once."
REFUSED = 429
_OK, _DONE = 200, b"[DONE]"


@dataclass(frozen=True)
class Asked:
    """One chat as its client saw it; times in milliseconds since it was sent."""

    request_id: str
    total_ms: float
    first_ms: float
    status: int = 200
    tokens: int = 0
    complete: bool = False
    retry_after: str | None = None
    error: str = ""
    engine_ms: float | None = None
    """What the answer itself says of its engine, where it does."""


class Client:
    """One keep-alive connection.

    Times run from before the request is written to when the bytes are read; they are parsed afterwards.
    """

    def __init__(self, port: int, key: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=600)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        self._head += f"Authorization: Bearer {key}\r\nContent-Length: "

    def ask(self, tokens: int, *, stream: bool) -> Asked:
        body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}]}
        body |= {"temperature": 0, "max_tokens": tokens, "stream": stream}
        body |= {"stream_options": {"include_usage": True}} if stream else {}
        text = json.dumps(body)
        request = f"{self._head}{len(text)}\r\n\r\n{text}".encode()
        began = time.perf_counter()
        self._socket.sendall(request)
        pieces = [(1000 * (time.perf_counter() - began), piece) for piece in self._pieces()]
        return _as_seen(pieces)

    def _pieces(self) -> Iterator[bytes]:
        """What the socket gives, up to the answer's end."""
        seen, ends_at = b"", -1
        while ends_at < 0 or len(seen) < ends_at:
            piece = self._socket.recv(1 << 16)
            if not piece:
                raise ConnectionError("the gateway closed the connection")
            seen += piece
            yield piece
            if ends_at < 0 and b"\r\n\r\n" in seen:
                ends_at = _end(seen)


def _end(seen: bytes) -> int:
    """How long the whole answer is, -1 while nobody knows (a chunked one that goes on)."""
    head = seen.index(b"\r\n\r\n") + 4
    told = re.search(rb"(?i)\r\ncontent-length: (\d+)", seen[:head])
    if told is not None:
        return head + int(told.group(1))
    return len(seen) if seen.endswith(b"0\r\n\r\n") else -1


def _as_seen(pieces: list[tuple[float, bytes]]) -> Asked:
    """The first token is the first event with text, not the role that precedes it."""
    raw = b"".join(piece for _, piece in pieces)
    answer = http.client.HTTPResponse(cast(Any, _Read(raw)), method="POST")
    answer.begin()
    body, total = answer.read(), pieces[-1][0]
    request_id = answer.headers.get("x-request-id", "")
    if answer.status != _OK:
        retry_after, error = answer.headers.get("Retry-After"), body.decode(errors="replace")
        return Asked(request_id, 0, 0, answer.status, retry_after=retry_after, error=error)
    if not body.startswith(b"data: "):
        told = json.loads(body)
        used = told["usage"]["completion_tokens"]
        return Asked(request_id, total, total, tokens=used, complete=True, engine_ms=told.get("total_ms"))
    lines = [line[6:] for line in body.splitlines() if line.startswith(b"data: ")]
    events = [json.loads(line) for line in lines if line != _DONE]
    tokens = sum(event["usage"]["completion_tokens"] for event in events if event.get("usage"))
    error = next((json.dumps(event["error"]) for event in events if "error" in event), "")
    return Asked(request_id, total, _first_text(raw, pieces), tokens=tokens, complete=_DONE in lines, error=error)


def _first_text(raw: bytes, pieces: list[tuple[float, bytes]]) -> float:
    """When the first event with text had come."""
    found = re.search(rb'"content": "[^"].*?\n\n', raw, re.DOTALL)
    if found is None:
        return 0.0
    ends = itertools.accumulate(len(piece) for _, piece in pieces)
    return next(at for (at, _), end in zip(pieces, ends, strict=True) if end >= found.end())


class _Read:
    """Bytes that were read, as the standard library's parser wants them."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._raw)
