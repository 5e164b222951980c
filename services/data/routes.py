"""The data service's doors: OpenAI's files, and our datasets with their examples."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from services.data import handlers, repository
from services.data.answers import (
    DatasetObject,
    DeletedDataset,
    DeletedFile,
    ExampleObject,
    FileObject,
    ListedDataset,
)
from services.data.domain import Split
from services.data.errors import UploadRefused
from services.data.file_rules import PURPOSES
from services.data.multipart import expires_after, read_form
from services.data.schemas import CreateDataset, CreateRaftDataset, dataset_object, example_object, file_object
from services.data.settings import DataSettings
from services.data.tables import Dataset
from shared.answers import Page, answering
from shared.files import File, get_file
from shared.web import Caller, caller, page, wiring
from shared.wiring import Wiring

router = APIRouter(tags=["data"])
Who = Annotated[Caller, Depends(caller)]
Parts = Annotated[Wiring, Depends(wiring)]
Order = Literal["asc", "desc"]
_DOWNLOAD_TYPE = "application/octet-stream"
_UPLOAD_FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")
_UPLOAD_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(PURPOSES)},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer"},
                    },
                    "examples": [
                        {
                            "file": '{"question": "How long does the kettle take?", "answer": "Three minutes."}',
                            "purpose": "fine-tune",
                        }
                    ],
                }
            }
        },
    }
}


@router.post("/files", openapi_extra=_UPLOAD_FORM, responses=answering(FileObject))
async def upload_file(request: Request, who: Who, parts: Parts) -> dict[str, Any]:
    """Upload a file. Equal content is stored once in a project; without `expires_after` it is kept until deleted."""
    async with read_form(request, DataSettings().max_upload_bytes, file="file", fields=_UPLOAD_FIELDS) as form:
        if "purpose" not in form.fields:
            raise UploadRefused("purpose: missing; send it as a form field, such as fine-tune.", param="purpose")
        row = await run_in_threadpool(
            handlers.keep_file,
            parts,
            who.project_id,
            form.content,
            filename=form.filename,
            purpose=form.fields["purpose"],
            expires_after=expires_after(form.fields),
        )
    return file_object(row)


@router.get("/files", responses=answering(Page[FileObject]))
def list_files(
    who: Who,
    parts: Parts,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Order = "desc",
    purpose: str | None = None,
) -> dict[str, Any]:
    """The project's files."""
    with parts.database.transaction(who.project_id) as session:
        found, more = repository.list_files(
            session, after=after, limit=limit, descending=order == "desc", purpose=purpose
        )
        return page([file_object(row) for row in found], has_more=more)


@router.get("/files/{file_id}", responses=answering(FileObject))
def show_file(file_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """One file."""
    with parts.database.transaction(who.project_id) as session:
        return file_object(get_file(session, file_id))


@router.get("/files/{file_id}/content", response_class=StreamingResponse)
def download_file(file_id: str, who: Who, parts: Parts) -> StreamingResponse:
    """The file's bytes, as they were uploaded."""
    row, content = handlers.open_file(parts, who.project_id, file_id)
    return StreamingResponse(content, media_type=_DOWNLOAD_TYPE, headers=_download_headers(row))


@router.head("/files/{file_id}/content", include_in_schema=False)
def measure_file(file_id: str, who: Who, parts: Parts) -> Response:
    """The headers of a download, without the bytes."""
    with parts.database.transaction(who.project_id) as session:
        row = get_file(session, file_id)
    return Response(media_type=_DOWNLOAD_TYPE, headers=_download_headers(row))


@router.delete("/files/{file_id}", responses=answering(DeletedFile))
def delete_file(file_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Delete a file. Datasets and vector stores made of it stay as they are."""
    handlers.delete_file(parts, who.project_id, file_id)
    return {"id": file_id, "object": "file", "deleted": True}


@router.post("/datasets", responses=answering(DatasetObject))
def create_dataset(body: CreateDataset, who: Who, parts: Parts) -> dict[str, Any]:
    """Import an uploaded file of examples: a job cleans, splits and freezes it."""
    with parts.database.transaction(who.project_id) as session:
        return _shown(session, handlers.create_dataset(session, who.project_id, body))


@router.post("/datasets/raft", responses=answering(DatasetObject))
def create_raft_dataset(body: CreateRaftDataset, who: Who, parts: Parts) -> dict[str, Any]:
    """Derive a training set whose questions carry passages as a vector store returns them."""
    with parts.database.transaction(who.project_id) as session:
        return _shown(session, handlers.create_raft_dataset(session, who.project_id, body))


@router.get("/datasets", responses=answering(Page[ListedDataset]))
def list_datasets(
    who: Who,
    parts: Parts,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Order = "desc",
) -> dict[str, Any]:
    """The project's datasets, without their quality reports."""
    with parts.database.transaction(who.project_id) as session:
        found, more = repository.list_datasets(session, after=after, limit=limit, descending=order == "desc")
        return page(_objects(session, found, with_report=False), has_more=more)


@router.get("/datasets/{dataset_id}", responses=answering(DatasetObject))
def show_dataset(dataset_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """One dataset with its quality report."""
    with parts.database.transaction(who.project_id) as session:
        return _shown(session, repository.get_dataset(session, dataset_id))


@router.get("/datasets/{dataset_id}/examples", responses=answering(Page[ExampleObject]))
def list_examples(
    dataset_id: str,
    who: Who,
    parts: Parts,
    split: Split | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """A ready dataset's examples, in the order of its source."""
    with parts.database.transaction(who.project_id) as session:
        found, more = handlers.list_examples(session, dataset_id, split=split, after=after, limit=limit)
        return page([example_object(row) for row in found], has_more=more)


@router.delete("/datasets/{dataset_id}", responses=answering(DeletedDataset))
def delete_dataset(dataset_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Delete a dataset and its examples. What was trained or measured on it keeps its id and hash."""
    with parts.database.transaction(who.project_id) as session:
        handlers.delete_dataset(session, dataset_id)
    return {"id": dataset_id, "object": "dataset", "deleted": True}


def _download_headers(row: File) -> dict[str, str]:
    """A browser saves the bytes under their label and never shows or runs them, whatever they are."""
    return {
        "content-length": str(row.bytes),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(row.filename, safe='')}",
        "content-security-policy": "default-src 'none'; sandbox",
        "x-content-type-options": "nosniff",
    }


def _shown(session: Session, dataset: Dataset) -> dict[str, Any]:
    return _objects(session, [dataset], with_report=True)[0]


def _objects(session: Session, datasets: Sequence[Dataset], *, with_report: bool) -> list[dict[str, Any]]:
    jobs = repository.jobs_of(session, datasets)
    return [dataset_object(one, jobs.get(one.job_id or ""), with_report=with_report) for one in datasets]
