"""Reading a multipart form with one file after the caller is known, and never more of it than is allowed."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.types import Message, Receive

from services.data.errors import UploadRefused, UploadTooLarge

_FORM_OVERHEAD = 1 << 16
_MOST_FIELDS = 20


@dataclass(frozen=True)
class Form:
    """What a client sent; `content` spools to disk and is closed with the request."""

    content: IO[bytes]
    filename: str
    fields: dict[str, str]


@asynccontextmanager
async def read_form(request: Request, limit: int, *, file: str, fields: Iterable[str] = ()) -> AsyncIterator[Form]:
    """Parse a form with a file under the name `file` and text under some of `fields`; anything else is refused.

    FastAPI would read the whole body before asking for a key; this runs after, bounded (413 past `limit` bytes).
    """
    bounded = Request(request.scope, _bounded(request.receive, limit, file))
    async with bounded.form(max_files=1, max_fields=_MOST_FIELDS) as form:
        yield _form(form, file, set(fields))


def expires_after(fields: dict[str, str]) -> int | None:
    """Seconds; the client spells the nested object as `expires_after[anchor]` and `expires_after[seconds]`."""
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise UploadRefused("expires_after[anchor] must be created_at.", param="expires_after.anchor")
    if seconds is None or not (seconds.isascii() and seconds.isdecimal()) or len(seconds) > 9:
        raise UploadRefused("expires_after[seconds] must be a whole number.", param="expires_after.seconds")
    return int(seconds)


def _bounded(receive: Receive, limit: int, file: str) -> Receive:
    received = 0

    async def counting() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit + _FORM_OVERHEAD:
            raise UploadTooLarge(f"The upload is larger than the limit of {limit} bytes.", param=file)
        return message

    return counting


def _form(form: FormData, file: str, known: set[str]) -> Form:
    content = form.get(file)
    for name, value in form.multi_items():
        if name != file and name not in known:
            raise UploadRefused(f"{name[:100]}: this form has no such field; leave it out.", param=name[:100])
        if name in known and (not isinstance(value, str) or len(form.getlist(name)) > 1):
            raise UploadRefused(f"{name}: send it once, as text.", param=name)
    if not isinstance(content, UploadFile):
        raise UploadRefused(f"{file}: missing; send it as a multipart form field named {file}.", param=file)
    fields = {name: value for name, value in form.items() if isinstance(value, str)}
    return Form(content.file, content.filename or "upload", fields)
