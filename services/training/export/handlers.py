"""Use cases of exports: order one, and write it."""

from typing import Any

from sqlalchemy.orm import Session

from services.training.export import repository
from services.training.export.errors import FormatNotPossible, NothingToExport
from services.training.export.gguf_rules import check_gguf
from services.training.export.model_export import ModelExport
from services.training.export.schemas import CreateExport
from services.training.rendering import is_base_model
from services.training.settings import TrainingSettings
from shared import jobs, quotas
from shared.jobs import Job, JobContext
from shared.messages import ExportModel
from shared.weights import lock_weights


def create_export(
    session: Session, project_id: str, model: str, wanted: CreateExport, settings: TrainingSettings
) -> Job:
    """Find the weights behind the model id and order the job; refuses what the rows alone tell cannot be done."""
    if is_base_model(settings.models_dir, model):
        raise NothingToExport(
            f"{model} is a base model: its files lie in the server's home already, and nothing was added to them. "
            "Export a fine-tuned model, or a variant that has one.",
            param="model",
        )
    weights_id = repository.weights_of_model(session, model).id
    lock_weights(session, weights_id)
    # by their id: meanwhile the model id may have come to name others, which nothing holds
    weights = repository.weights(session, weights_id)
    whole = weights.recipe.get("tune") == "full"
    if wanted.format == "adapter" and whole:
        raise FormatNotPossible(
            f"{model} is a whole model (it was trained with `tune: full`), so there is no adapter beside its base. "
            "Ask for the format merged.",
            param="format",
        )
    if wanted.format == "adapter" and wanted.dtype != "auto":
        raise FormatNotPossible(
            "An adapter is exported as it was trained; leave dtype out, or ask for the format merged.", param="dtype"
        )
    if wanted.dtype == "q8_0" and wanted.format != "gguf":
        raise FormatNotPossible("q8_0 is a type of GGUF alone; ask for the format gguf.", param="dtype")
    if wanted.format == "gguf" and not whole and is_base_model(settings.models_dir, weights.base_model):
        check_gguf(settings.models_dir / weights.base_model)
    quotas.check_storage(session, project_id, settings)
    command = ExportModel(weights_id=weights.id, model=model, format=wanted.format, dtype=wanted.dtype)
    return jobs.send(session, project_id, command, subject_id=weights.id)


def export_model(context: JobContext, command: ExportModel) -> None:
    """Write the files, pack them, and keep the pack as a file of the project."""
    ModelExport(context, command).run()


JOB_HANDLERS: dict[Any, Any] = {ExportModel: export_model}
