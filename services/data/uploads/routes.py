"""OpenAI's uploads over HTTP."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool

from services.data.multipart import read_form
from services.data.settings import DataSettings
from services.data.uploads import handlers, repository
from services.data.uploads.answers import UploadObject, UploadPartObject
from services.data.uploads.schemas import CompleteUpload, CreateUpload, part_object, upload_object
from shared.answers import answering
from shared.web import Caller, caller, wiring
from shared.wiring import Wiring

router = APIRouter(prefix="/uploads", tags=["uploads"])
Who = Annotated[Caller, Depends(caller)]
Parts = Annotated[Wiring, Depends(wiring)]
_PART_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary"}},
                    "examples": [{"data": '{"question": "How long does the kettle take?", '}],
                }
            }
        },
    }
}


@router.post("", responses=answering(UploadObject))
def create_upload(body: CreateUpload, who: Who, parts: Parts) -> dict[str, Any]:
    """Announce a file that will come in parts; they may come for one hour."""
    with parts.database.transaction(who.project_id) as session:
        return upload_object(handlers.create_upload(session, who.project_id, body))


@router.post("/{upload_id}/parts", openapi_extra=_PART_FORM, responses=answering(UploadPartObject))
async def add_part(upload_id: str, request: Request, who: Who, parts: Parts) -> dict[str, Any]:
    """Send one part of at most 64 MB. Parts may come in any order and many at once."""
    # a part that nobody wants is not even read
    await run_in_threadpool(_require_pending, parts, who.project_id, upload_id)
    async with read_form(request, DataSettings().max_part_bytes, file="data") as form:
        row = await run_in_threadpool(handlers.add_part, parts, who.project_id, upload_id, form.content)
    return part_object(row)


@router.post("/{upload_id}/complete", responses=answering(UploadObject))
def complete_upload(upload_id: str, body: CompleteUpload, who: Who, parts: Parts) -> dict[str, Any]:
    """Put the parts together, in the order given; the same order again answers the same file."""
    return upload_object(*handlers.complete_upload(parts, who.project_id, upload_id, body))


@router.post("/{upload_id}/cancel", responses=answering(UploadObject))
def cancel_upload(upload_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Give the upload up; its parts are dropped."""
    with parts.database.transaction(who.project_id) as session:
        return upload_object(handlers.cancel_upload(session, parts.storage, upload_id))


def _require_pending(parts: Wiring, project_id: str, upload_id: str) -> None:
    with parts.database.transaction(project_id) as session:
        repository.pending_upload(session, upload_id)
