"""What clients send to `/adapters`, and what they get."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints

from services.training.adapters.repository import KnownAdapter
from shared.body import Body
from shared.clock import unix

_STATES = {"queued": "queued", "running": "checking", "paused": "paused", "succeeded": "ready"}
Label = Annotated[str, StringConstraints(max_length=512, pattern=r"^[^\x00]*$")]


class CreateAdapter(Body):
    """Two uploaded files (`/v1/files`, any purpose) that together are a LoRA adapter of a base model here."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "base_model": "smollm2-135m-instruct",
                    "weights_file": "file-abc",
                    "config_file": "file-def",
                    "suffix": "support",
                }
            ]
        },
    )

    base_model: Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]
    """The id of a base model of this server; what the configuration calls it is ignored."""
    weights_file: Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]
    """The id of the uploaded `adapter_model.safetensors`."""
    config_file: Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]
    """The id of the uploaded `adapter_config.json`, as peft writes it."""
    suffix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    """A part of the model id, `ft:<base>:<project>:<suffix>:<id>`."""
    metadata: Annotated[
        dict[Annotated[str, StringConstraints(max_length=64, pattern=r"^[^\x00]*$")], Label], Field(max_length=16)
    ] = Field({})


def adapter_object(known: KnownAdapter) -> dict[str, Any]:
    """An adapter: `model` is its model id once `status` is "ready"; `error` says why an upload was refused."""
    row, upload, adapter, job = known.row, known.upload, known.adapter, known.job
    status = "ready" if adapter else _STATES.get(job.status, job.status) if job else "failed"
    return {
        "id": row.id,
        "object": "adapter",
        "created_at": unix(row.created_at),
        "status": status,
        "source": "upload" if upload else "training",
        "base_model": row.base_model,
        "model": adapter.model_id if adapter else None,
        "job": row.job_id,
        "error": job.error if job and not adapter else None,
        "weights_file": upload.weights_file if upload else None,
        "config_file": upload.config_file if upload else None,
        "suffix": upload.suffix if upload else None,
        "metadata": upload.metadata_ if upload else {},
        "rank": adapter.recipe.get("rank") if adapter else None,
        "alpha": adapter.recipe.get("alpha") if adapter else None,
        "targets": adapter.recipe.get("targets") if adapter else None,
    }
