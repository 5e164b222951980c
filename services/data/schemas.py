"""Bodies and objects at the HTTP edge of files and datasets."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from services.data.tables import Dataset, ExampleRow
from shared.body import Body
from shared.clock import unix
from shared.files import File
from shared.jobs import TERMINAL, Job

_Name = Annotated[str, Field(min_length=1, max_length=200)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class SplitShares(Body):
    """Shares of the examples; they add up to 1."""

    train: _Share = 0.7
    validation: _Share = 0.1
    test: _Share = 0.2


class CreateDataset(Body):
    """Import an uploaded file as a dataset."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"file": "file-abc", "split": {"train": 0.7, "validation": 0.1, "test": 0.2}, "seed": 0}]
        },
    )

    file: str
    name: _Name | None = None
    documents_key: _Name | None = None
    """The field that names the gold document, if it is not called `document` or `documents`."""
    split: SplitShares = SplitShares()
    seed: _Seed = 0


class CreateRaftDataset(Body):
    """Derive a retrieval-aware training set from a dataset and a corpus."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"dataset": "ds_abc", "vector_store": "vs_abc", "k": 3, "gold_share": 0.9}]},
    )

    dataset: str
    vector_store: str
    name: _Name | None = None
    k: Annotated[int, Field(ge=1, le=20)] = 3
    rows_limit: Annotated[int, Field(ge=1, le=100_000)] = 240
    gold_share: Annotated[float, Field(ge=0, le=1)] = 0.9
    seed: _Seed = 0


def file_object(row: File) -> dict[str, Any]:
    """OpenAI's FileObject."""
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.bytes,
        "created_at": unix(row.created_at),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": row.status,
        "expires_at": unix(row.expires_at),
        "status_details": None,
    }


def dataset_object(row: Dataset, job: Job | None, *, with_report: bool) -> dict[str, Any]:
    """A dataset; the quality report only where one dataset is asked for, since it is long."""
    status, error = _state(row, job)
    shown: dict[str, Any] = {
        "id": row.id,
        "object": "dataset",
        "created_at": unix(row.created_at),
        "name": row.name,
        "status": status,
        "sha256": row.sha256,
        "sizes": row.sizes,
        "spec": row.spec,
        "lineage": row.lineage,
        "job_id": row.job_id,
        "progress": job.progress if job else None,
        "error": error,
    }
    return shown | {"report": row.report} if with_report else shown


def example_object(row: ExampleRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "dataset.example",
        "position": row.position,
        "split": row.split,
        "messages": row.messages,
        "answer": row.answer,
        "documents": row.documents,
        "cluster": row.cluster,
        "metadata": row.metadata_,
        "provenance": row.provenance,
        "passages": row.passages,
    }


def _state(row: Dataset, job: Job | None) -> tuple[str, dict[str, Any] | None]:
    """A pending dataset whose job is over will never be ready: a cancelled or killed job could not write that here."""
    if row.status != "pending" or job is None or job.status not in TERMINAL:
        return row.status, row.error
    ended = {"code": f"job_{job.status}", "message": f"The job {job.id} {job.status}.", "param": None}
    return "failed", job.error or ended
