"""OpenAI's fine-tuning objects, made of our rows; our own fields stand beside theirs."""

from typing import Any

from services.training.domain import shown_status
from services.training.hyperparameters import echoed
from services.training.recipe import Recipe
from services.training.tables import CheckpointRow, TrainingJob
from shared.clock import unix
from shared.jobs.tables import Job, JobEvent
from shared.web import Caller


def job_object(row: TrainingJob, job: Job, who: Caller) -> dict[str, Any]:
    """OpenAI's FineTuningJob. `status` may also be "paused"; OpenAI's client passes that through."""
    recipe = Recipe.model_validate(row.recipe)
    hyperparameters = echoed(recipe, row.auto)
    three = {name: value for name, value in hyperparameters.items() if name != "beta"}
    return {
        "id": row.id,
        "object": "fine_tuning.job",
        "created_at": unix(row.created_at),
        "finished_at": unix(job.finished_at),
        "estimated_finish": _estimated_finish(job),
        "model": row.base_model,
        "fine_tuned_model": row.fine_tuned_model,
        "organization_id": who.organisation_id,
        "status": shown_status(job.status, validated=row.validated_at is not None),
        "training_file": row.training_file or row.dataset_id,
        "validation_file": row.validation_file,
        "hyperparameters": three,
        "method": {"type": recipe.objective, recipe.objective: {"hyperparameters": hyperparameters}},
        "seed": row.seed,
        "result_files": row.result_files,
        "trained_tokens": row.trained_tokens,
        "error": job.error,
        "integrations": [],
        "metadata": row.metadata_,
        "dataset": row.dataset_id,
        "recipe": row.recipe,
        "prompt": row.prompt,
        "replay_file": row.replay_file,
        "init_adapter": row.init_adapter_id,
        "max_minutes": row.max_minutes,
        "progress": job.progress,
        "result": job.result,
    }


def event_object(event: JobEvent) -> dict[str, Any]:
    """OpenAI's FineTuningJobEvent."""
    return {
        "id": f"ftevent-{event.id}",
        "object": "fine_tuning.job.event",
        "created_at": unix(event.created_at),
        "level": event.level,
        "message": event.message,
        "type": event.type,
        "data": event.data,
    }


def checkpoint_object(checkpoint: CheckpointRow) -> dict[str, Any]:
    """OpenAI's FineTuningJobCheckpoint; a metric that was not measured at this step is null."""
    return {
        "id": checkpoint.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": unix(checkpoint.created_at),
        "fine_tuning_job_id": checkpoint.job_id,
        "fine_tuned_model_checkpoint": checkpoint.model_id,
        "step_number": checkpoint.step,
        "metrics": checkpoint.metrics,
    }


def _estimated_finish(job: Job) -> int | None:
    """The moment that the last measured rate leads to; None unless the job runs and its rate is known."""
    progress = job.progress or {}
    if job.status != "running" or progress.get("seconds_left") is None or progress.get("at") is None:
        return None
    return int(progress["at"] + progress["seconds_left"])
