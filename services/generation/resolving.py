"""From a model id to all that decides its answers: release → variant → adapter or checkpoint → base."""

from pathlib import Path

from sqlalchemy.orm import Session

from services.generation import repository
from services.generation.domain import Answerer, Retrieval
from services.generation.errors import ModelNotFound
from services.generation.local_models import base_model_folder
from services.generation.tables import Variant
from shared.database import Database
from shared.prompt_format import PromptSpec


def resolve_now(database: Database, project_id: str, models_dir: Path, model: str) -> Answerer:
    """`resolve` in a transaction of its own; a base model needs none."""
    if base_model_folder(models_dir, model) is not None:
        return _base(model)
    with database.transaction(project_id) as session:
        return resolve(session, models_dir, model)


def resolve(session: Session, models_dir: Path, model: str) -> Answerer:
    """Look the id up as base model, release, variant, adapter, checkpoint, in this order; raises ModelNotFound."""
    if base_model_folder(models_dir, model) is not None:
        return _base(model)
    release = repository.release_by_model(session, model)
    if release is not None:
        return _variant(session, model, repository.variant(session, release.variant_id))
    variant = repository.variant_by_model(session, model)
    if variant is not None:
        return _variant(session, model, variant)
    found = repository.adapter(session, model_id=model) or repository.checkpoint(session, model)
    if found is not None:
        adapter, base_model = found
        return Answerer(model, base_model, adapter, PromptSpec(), None, {})
    raise ModelNotFound(f"There is no model {model!r} here. GET /v1/models lists what answers.", param="model")


def _base(model: str) -> Answerer:
    return Answerer(model, model, None, PromptSpec(), None, {})


def _variant(session: Session, model: str, variant: Variant) -> Answerer:
    adapter = repository.adapter(session, id=variant.adapter_id) if variant.adapter_id else None
    if variant.adapter_id and adapter is None:
        raise ModelNotFound(f"{model} needs the adapter {variant.adapter_id}, which is gone.", param="model")
    prompt = repository.prompt(session, variant.prompt_id).spec if variant.prompt_id else {}
    return Answerer(
        model=model,
        base_model=variant.base_model,
        adapter=adapter[0] if adapter else None,
        prompt=PromptSpec.model_validate(prompt),
        retrieval=Retrieval(**variant.retrieval) if variant.retrieval else None,
        sampling=variant.sampling,
    )
