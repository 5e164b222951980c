"""What the adapters' routes answer, for the API's description."""

from typing import Literal

from pydantic import ConfigDict

from shared.answers import Answer
from shared.jobs.answers import Failure


class AdapterObject(Answer):
    """An adapter that a client brought or that was trained here."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "ad_abc",
                    "object": "adapter",
                    "created_at": 1767225600,
                    "status": "ready",
                    "source": "upload",
                    "base_model": "smollm2-135m-instruct",
                    "model": "ft:smollm2-135m-instruct:default:support:1a2b3c4d",
                    "job": "job_abc",
                    "error": None,
                    "weights_file": "file-abc",
                    "config_file": "file-def",
                    "suffix": "support",
                    "metadata": {},
                    "rank": 16,
                    "alpha": 32.0,
                    "targets": ["q_proj", "v_proj"],
                }
            ]
        }
    )

    id: str
    object: Literal["adapter"]
    created_at: int
    """Unix seconds."""
    status: Literal["queued", "checking", "paused", "ready", "failed", "cancelled"]
    source: Literal["upload", "training"]
    base_model: str
    model: str | None
    """Its model id once it is ready."""
    job: str
    """The job that checks the upload, or that trained it."""
    error: Failure | None
    """Why an upload was refused."""
    weights_file: str | None
    config_file: str | None
    suffix: str | None
    metadata: dict[str, str]
    rank: int | None
    alpha: float | None
    targets: Literal["all-linear"] | list[str] | None
    """The linear layers that it adds to."""


class DeletedAdapter(Answer):
    """An adapter that is gone with its weights."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": "ad_abc", "object": "adapter", "deleted": True}]})

    id: str
    object: Literal["adapter"]
    deleted: Literal[True]
