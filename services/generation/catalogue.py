"""The list of everything that answers (and the embedders), in OpenAI's model shape with our `kind`."""

from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from services.generation import repository
from services.generation.errors import ModelNotFound
from services.generation.local_models import LocalModel, local_models
from shared.clock import unix


def model_list(session: Session, models_dir: Path) -> list[dict[str, Any]]:
    """Base models first, then releases, variants, adapters and checkpoints newest first, embedders last."""
    local = local_models(models_dir)
    return [
        *(_local(model) for model in local if model.kind == "base"),
        *(_row(row.model_id, "release", row.created_at) for row in repository.releases(session)),
        *(_row(row.model_id, "variant", row.created_at) for row in repository.all_variants(session)),
        *(_row(row.model_id, "adapter", row.created_at) for row in repository.adapters(session)),
        *(_row(row.model_id, "checkpoint", row.created_at) for row in repository.checkpoints(session)),
        *(_local(model) for model in local if model.kind == "embedder"),
    ]


def model_object(session: Session, models_dir: Path, model: str) -> dict[str, Any]:
    """One model; raises ModelNotFound."""
    for found in model_list(session, models_dir):
        if found["id"] == model:
            return found
    raise ModelNotFound(f"There is no model {model!r} here. GET /v1/models lists what answers.", param="model")


def _local(model: LocalModel) -> dict[str, Any]:
    return _object(model.id, model.kind, model.created) | {"provenance": model.provenance}


def _row(model_id: str, kind: str, created_at: Any) -> dict[str, Any]:
    return _object(model_id, kind, unix(created_at))


def _object(model_id: str, kind: str, created: int | None) -> dict[str, Any]:
    owner = "library" if kind in {"base", "embedder"} else "project"
    return {"id": model_id, "object": "model", "created": created, "owned_by": owner, "kind": kind}
