"""The fingerprint of a request's body, made while it streams by; equal orders have equal ones."""

import hashlib
from email.message import Message as Headers
from typing import IO

from starlette.types import Message, Receive

_PIECE = 1 << 20


class BodyDigest:
    """SHA-256 of a query and a body, without the boundary of a form: clients draw a new one for every attempt."""

    def __init__(self, query: bytes, content_type: str) -> None:
        self._sha = hashlib.sha256(query + b"\0")
        self._boundary = _boundary(content_type)
        self._tail = b""
        self.complete = False

    def update(self, piece: bytes, *, last: bool) -> None:
        if not self._boundary:
            self._sha.update(piece)
        else:
            found = (self._tail + piece).replace(self._boundary, b"")
            # the beginning of a boundary may lie at the end of this piece
            kept = 0 if last else min(len(found), len(self._boundary) - 1)
            self._sha.update(found[: len(found) - kept])
            self._tail = found[len(found) - kept :]
        self.complete = self.complete or last

    def hexdigest(self) -> str:
        """Of the whole body; None of it may be missing."""
        assert self.complete, "the body was not read to its end"
        return self._sha.hexdigest()

    def listening(self, receive: Receive) -> Receive:
        """A channel that passes on what it hears and digests it."""

        async def heard() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                self.update(message.get("body", b""), last=not message.get("more_body", False))
            return message

        return heard

    async def drain(self, receive: Receive) -> bool:
        """Read the body for its digest alone; False if the client hung up in its middle."""
        heard = self.listening(receive)
        while not self.complete:
            if (await heard())["type"] == "http.disconnect":
                return False
        return True

    async def spool(self, receive: Receive, held: IO[bytes]) -> Receive | None:
        """Read the body into `held` and answer a channel that tells it again; None if the client hung up."""
        heard = self.listening(receive)
        while not self.complete:
            message = await heard()
            if message["type"] == "http.disconnect":
                return None
            held.write(message.get("body", b""))
        held.seek(0)
        told = False

        async def again() -> Message:
            nonlocal told
            if told:
                return await receive()
            piece = held.read(_PIECE)
            told = len(piece) < _PIECE
            return {"type": "http.request", "body": piece, "more_body": not told}

        return again


def _boundary(content_type: str) -> bytes:
    if not content_type.lower().startswith("multipart/"):
        return b""
    headers = Headers()
    headers["content-type"] = content_type
    found = headers.get_param("boundary")
    return found.encode() if isinstance(found, str) else b""
