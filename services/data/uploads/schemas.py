"""Bodies and objects at the HTTP edge of uploads."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from services.data.file_rules import LEAST_EXPIRY_SECONDS, LONGEST_NAME, MOST_EXPIRY_SECONDS
from services.data.schemas import file_object
from services.data.uploads.tables import Upload, UploadPart
from shared.body import Body
from shared.clock import unix
from shared.files import File

MOST_PARTS = 10_000


class UploadExpiry(Body):
    """How long the finished file is kept."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=LEAST_EXPIRY_SECONDS, le=MOST_EXPIRY_SECONDS)]


class CreateUpload(Body):
    """Announce a file that will come in parts."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"bytes": 104857600, "filename": "train.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}
            ]
        },
    )

    bytes: Annotated[int, Field(ge=1, description="The size of the whole file; the parts must add up to it.")]
    filename: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
    mime_type: Annotated[str, Field(min_length=1, max_length=255)]
    purpose: Annotated[str, Field(description="As for files: assistants, batch, fine-tune, vision, user_data, evals.")]
    expires_after: Annotated[UploadExpiry | None, Field(description="Lifetime of the finished file.")] = None


class CompleteUpload(Body):
    """Put the parts together, in the order of `part_ids`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"part_ids": ["part_abc", "part_def"]}]})

    part_ids: Annotated[list[str], Field(min_length=1, max_length=MOST_PARTS)]
    md5: Annotated[
        str | None, Field(pattern="^[0-9a-fA-F]{32}$", description="The whole file's MD5 (hex); checked if given.")
    ] = None


def upload_object(row: Upload, file: File | None = None) -> dict[str, Any]:
    """OpenAI's Upload."""
    return {
        "id": row.id,
        "object": "upload",
        "bytes": row.bytes,
        "created_at": unix(row.created_at),
        "expires_at": unix(row.expires_at),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": row.status,
        "file": None if file is None else file_object(file),
    }


def part_object(row: UploadPart) -> dict[str, Any]:
    """OpenAI's UploadPart."""
    return {
        "id": row.id,
        "object": "upload.part",
        "created_at": unix(row.created_at),
        "upload_id": row.upload_id,
    }
