"""Bodies and objects at the HTTP edge of batches."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from services.evaluation.batches.domain import Endpoint
from services.evaluation.batches.tables import Batch
from shared.body import Body
from shared.clock import unix

Key = Annotated[str, Field(min_length=1, max_length=64)]
Value = Annotated[str, Field(max_length=512)]


class OutputExpiresAfter(Body):
    """How long the files of answers are kept."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=30 * 24 * 3600)]


class CreateBatch(Body):
    """Ask every line of an uploaded file in the background."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"input_file_id": "file-abc", "endpoint": "/v1/chat/completions", "completion_window": "24h"}]
        },
    )

    input_file_id: Annotated[
        str,
        Field(description="A JSONL file of purpose batch; each line is {custom_id, method, url, body}."),
    ]
    endpoint: Annotated[Endpoint, Field(description="Where every line's url points.")]
    completion_window: Literal["24h"]
    metadata: Annotated[dict[Key, Value], Field(max_length=16)] | None = None
    output_expires_after: Annotated[
        OutputExpiresAfter | None, Field(description="Lifetime of the output and error files from when they are made.")
    ] = None


def batch_object(row: Batch) -> dict[str, Any]:
    """OpenAI's Batch."""
    errors = None if row.errors is None else {"object": "list", "data": row.errors}
    stamps = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
    return {
        "id": row.id,
        "object": "batch",
        "endpoint": row.endpoint,
        "model": row.model,
        "errors": errors,
        "input_file_id": row.input_file_id,
        "completion_window": "24h",
        "status": row.status,
        "output_file_id": row.output_file_id,
        "error_file_id": row.error_file_id,
        "created_at": unix(row.created_at),
        "expires_at": unix(row.expires_at),
        **{f"{name}_at": unix(getattr(row, f"{name}_at")) for name in stamps},
        "request_counts": {"total": row.total, "completed": row.completed, "failed": row.failed},
        "usage": {
            "input_tokens": row.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": row.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": row.input_tokens + row.output_tokens,
        },
        "metadata": row.metadata_,
    }
