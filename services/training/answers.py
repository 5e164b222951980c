"""What the fine-tuning routes answer, for the API's description."""

from typing import Any, Literal

from pydantic import ConfigDict

from services.training.recipe import Recipe
from shared.answers import Answer
from shared.jobs.answers import Failure, Progress
from shared.prompt_format import PromptSpec

_HYPERPARAMETERS: dict[str, Any] = {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 0.707107}
A_JOB: dict[str, Any] = {
    "id": "ftjob-abc",
    "object": "fine_tuning.job",
    "created_at": 1767225600,
    "finished_at": 1767226020,
    "estimated_finish": None,
    "model": "smollm2-135m-instruct",
    "fine_tuned_model": "ft:smollm2-135m-instruct:default:support:1a2b3c4d",
    "organization_id": "org_abc",
    "status": "succeeded",
    "training_file": "file-abc",
    "validation_file": None,
    "hyperparameters": _HYPERPARAMETERS,
    "method": {"type": "supervised", "supervised": {"hyperparameters": _HYPERPARAMETERS}},
    "seed": 0,
    "result_files": ["file-def"],
    "trained_tokens": 64200,
    "error": None,
    "integrations": [],
    "metadata": {"team": "support"},
    "dataset": None,
    "recipe": Recipe(batch_size=8, learning_rate=0.000707107).model_dump(mode="json"),
    "prompt": {"system": None, "instruction": None, "shots": [], "with_passages": False},
    "replay_file": None,
    "init_adapter": None,
    "max_minutes": None,
    "progress": {
        "done": 75.0,
        "total": 75.0,
        "unit": "steps",
        "message": "loss 0.412",
        "seconds_left": 0.0,
        "at": 1767226019.3,
    },
    "result": {
        "adapter_id": "ad_abc",
        "model_id": "ft:smollm2-135m-instruct:default:support:1a2b3c4d",
        "train_seconds": 412.0,
        "trained_tokens": 64200,
        "metrics": {
            "steps": 75,
            "best_step": 75,
            "valid_loss": 0.52,
            "valid_mean_token_accuracy": 0.86,
            "train_loss": 0.412,
            "stopped_early": False,
        },
    },
}


class EchoedHyperparameters(Answer):
    """OpenAI's three; "auto" is what still waits for the data."""

    n_epochs: float | Literal["auto"]
    batch_size: int | Literal["auto"]
    learning_rate_multiplier: float | Literal["auto"]
    """Times the method's default learning rate: 1e-3, and 1e-4 for dpo."""


class EchoedDpoHyperparameters(EchoedHyperparameters):
    """OpenAI's four of `dpo`."""

    beta: float


class SupervisedSettings(Answer):
    """What `supervised` was given."""

    hyperparameters: EchoedHyperparameters


class DpoSettings(Answer):
    """What `dpo` was given."""

    hyperparameters: EchoedDpoHyperparameters


class SupervisedMethod(Answer):
    """The model learns answers."""

    type: Literal["supervised"]
    supervised: SupervisedSettings


class DpoMethod(Answer):
    """The model learns to prefer one answer to another."""

    type: Literal["dpo"]
    dpo: DpoSettings


class ContinuedPretrainingMethod(Answer):
    """The model goes on reading documents."""

    type: Literal["continued_pretraining"]
    continued_pretraining: SupervisedSettings


class TrainingMetrics(Answer):
    """What a run measured at its end. Losses are mean nats per completion token, of `dpo` per pair."""

    steps: int
    best_step: int
    """The step whose weights are kept."""
    valid_loss: float | None
    """At the best step; null where nothing was validated."""
    valid_mean_token_accuracy: float | None
    train_loss: float
    stopped_early: bool


class TrainingResult(Answer):
    """What a fine-tuning job made."""

    adapter_id: str
    model_id: str
    train_seconds: float
    trained_tokens: int
    metrics: TrainingMetrics


class FineTuningJob(Answer):
    """OpenAI's FineTuningJob, and beside it what of the order is ours, with progress and result."""

    model_config = ConfigDict(json_schema_extra={"examples": [A_JOB]})

    id: str
    object: Literal["fine_tuning.job"]
    created_at: int
    """Unix seconds."""
    finished_at: int | None
    """Unix seconds; null until it is over."""
    estimated_finish: int | None
    """Unix seconds; null unless it runs and its pace is known."""
    model: str
    """The base model."""
    fine_tuned_model: str | None
    """The id of the model that was made."""
    organization_id: str
    status: Literal["queued", "validating_files", "running", "paused", "succeeded", "failed", "cancelled"]
    training_file: str
    """A file's, a vector store's or a dataset's id."""
    validation_file: str | None
    hyperparameters: EchoedHyperparameters
    method: SupervisedMethod | DpoMethod | ContinuedPretrainingMethod
    seed: int
    result_files: list[str]
    """The file of metrics by step, once it succeeded."""
    trained_tokens: int | None
    error: Failure | None
    integrations: list[Any]
    """Always empty."""
    metadata: dict[str, str]
    dataset: str | None
    """The id of the dataset, where one is learned from."""
    recipe: Recipe
    """Every setting; those left to "auto" have their final numbers once the data was read."""
    prompt: PromptSpec
    """The layout in which the model is served."""
    replay_file: str | None
    init_adapter: str | None
    """The id of the adapter or checkpoint that it goes on from."""
    max_minutes: float | None
    progress: Progress | None
    result: TrainingResult | None


class FineTuningEvent(Answer):
    """OpenAI's FineTuningJobEvent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "ftevent-42",
                    "object": "fine_tuning.job.event",
                    "created_at": 1767225660,
                    "level": "info",
                    "message": "Step 10/75: training loss=1.21",
                    "type": "metrics",
                    "data": {
                        "step": 10,
                        "total_steps": 75,
                        "epoch": 0.4,
                        "train_loss": 1.21,
                        "train_mean_token_accuracy": 0.7,
                        "learning_rate": 0.0007,
                        "gradient_norm": 0.9,
                        "tokens": 860,
                    },
                }
            ]
        }
    )

    id: str
    """Later events have higher numbers."""
    object: Literal["fine_tuning.job.event"]
    created_at: int
    """Unix seconds."""
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None
    """Of `metrics` the numbers of the step; of a message facts for programs, or null."""


class CheckpointMetrics(Answer):
    """What was measured at the checkpoint's step; null is what was not."""

    step: int
    train_loss: float | None
    train_mean_token_accuracy: float | None
    valid_loss: float | None
    valid_mean_token_accuracy: float | None
    full_valid_loss: float | None
    full_valid_mean_token_accuracy: float | None


class FineTuningCheckpoint(Answer):
    """OpenAI's FineTuningJobCheckpoint."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "ftckpt_abc",
                    "object": "fine_tuning.job.checkpoint",
                    "created_at": 1767225800,
                    "fine_tuning_job_id": "ftjob-abc",
                    "fine_tuned_model_checkpoint": "ft:smollm2-135m-instruct:default:support:1a2b3c4d:ckpt-step-50",
                    "step_number": 50,
                    "metrics": {
                        "step": 50,
                        "train_loss": 0.61,
                        "train_mean_token_accuracy": 0.82,
                        "valid_loss": 0.66,
                        "valid_mean_token_accuracy": 0.81,
                        "full_valid_loss": None,
                        "full_valid_mean_token_accuracy": None,
                    },
                }
            ]
        }
    )

    id: str
    object: Literal["fine_tuning.job.checkpoint"]
    created_at: int
    """Unix seconds."""
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str
    """The model id under which its weights answer."""
    step_number: int
    metrics: CheckpointMetrics
