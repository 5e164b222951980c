"""Reading a multipart upload after the caller is known, and never more of it than is allowed."""

from collections.abc import AsyncIterator
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
class Upload:
    """What a client sent; `content` spools to disk and is closed with the request."""

    content: IO[bytes]
    filename: str
    purpose: str
    expires_after: int | None


@asynccontextmanager
async def read_upload(request: Request, limit: int) -> AsyncIterator[Upload]:
    """Parse the form. FastAPI would read the whole body before asking for a key; this runs after, bounded."""
    bounded = Request(request.scope, _bounded(request.receive, limit))
    async with bounded.form(max_files=1, max_fields=_MOST_FIELDS) as form:
        yield _upload(form)


def _bounded(receive: Receive, limit: int) -> Receive:
    received = 0

    async def counting() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit + _FORM_OVERHEAD:
            raise UploadTooLarge(f"The upload is larger than the limit of {limit} bytes.", param="file")
        return message

    return counting


def _upload(form: FormData) -> Upload:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise UploadRefused("file: missing; send it as a multipart form field named file.", param="file")
    purpose = form.get("purpose")
    if not isinstance(purpose, str):
        raise UploadRefused("purpose: missing; send it as a form field, such as fine-tune.", param="purpose")
    return Upload(file.file, file.filename or "upload", purpose, _expires_after(form))


def _expires_after(form: FormData) -> int | None:
    """The client spells the nested object as `expires_after[anchor]` and `expires_after[seconds]`."""
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at" or not isinstance(seconds, str) or not seconds.isdecimal():
        raise UploadRefused(
            "expires_after needs anchor created_at and a whole number of seconds.", param="expires_after"
        )
    return int(seconds)
