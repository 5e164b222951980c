"""What uploads answer, for the API's description."""

from typing import Literal

from pydantic import ConfigDict

from services.data.answers import A_FILE, FileObject
from shared.answers import Answer

_UPLOAD_ID = "upload_abc"


class UploadObject(Answer):
    """OpenAI's Upload."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": _UPLOAD_ID,
                    "object": "upload",
                    "bytes": A_FILE["bytes"],
                    "created_at": 1767225540,
                    "expires_at": 1767229140,
                    "filename": A_FILE["filename"],
                    "purpose": A_FILE["purpose"],
                    "status": "completed",
                    "file": A_FILE,
                }
            ]
        }
    )

    id: str
    object: Literal["upload"]
    bytes: int
    """The size that was announced."""
    created_at: int
    """Unix seconds."""
    expires_at: int
    """Unix seconds: until then parts may come."""
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None
    """The file, once the upload is completed."""


class UploadPartObject(Answer):
    """OpenAI's UploadPart."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "part_abc",
                    "object": "upload.part",
                    "created_at": 1767225550,
                    "upload_id": _UPLOAD_ID,
                }
            ]
        }
    )

    id: str
    object: Literal["upload.part"]
    created_at: int
    """Unix seconds."""
    upload_id: str
