"""What can go wrong in training, each with its HTTP status and a stable code.

UpliftError
├── InvalidInput 400: InvalidRecipe, UnknownRecipe, InvalidTrainingFile, NoTrainingExamples, AdapterMismatch,
│                     NoChatTemplate, FineTuningMethodUnsupported, FineTuningUnsupported, HyperparametersConflict,
│                     TrainingFileNotFound, WrongFilePurpose, CorpusNotFound,
│                     QuantisationUnavailable, ShardingUnsupported
├── NotFound 404: TrainingJobNotFound, RecipeNotFound, BaseModelNotFound, DatasetNotFound, AdapterNotFound
├── Conflict, answered as 400: DatasetNotReady, CorpusNotReady, JobNotPausable, JobNotResumable
└── TrainingFailed 500: NonFiniteLoss, OutOfMemory, DiskFull, DoesNotFit, ExceedsBudget
"""

from shared.errors import Conflict, InvalidInput, NotFound, UpliftError


class InvalidRecipe(InvalidInput):
    code = "invalid_recipe"


class UnknownRecipe(InvalidInput):
    code = "unknown_recipe"


class InvalidTrainingFile(InvalidInput):
    """A line of a training file is not a chat with an answer; the message names the line."""

    code = "invalid_training_file"


class NoTrainingExamples(InvalidInput):
    code = "no_training_examples"


class AdapterMismatch(InvalidInput):
    """The adapter to continue from does not fit this base model."""

    code = "adapter_mismatch"


def wrong_start(tune: str) -> AdapterMismatch:
    """What to continue from is a whole model where the recipe tunes an adapter, or the other way round."""
    found, wanted = ("an adapter", "lora` or `qlora") if tune == "full" else ("a whole model", "full")
    return AdapterMismatch(
        f"What to continue from is {found}, and the recipe tunes {tune}. Use `tune: {wanted}`, or start from the base "
        "model.",
        param="recipe.tune",
    )


class NoChatTemplate(InvalidInput):
    code = "no_chat_template"


class FineTuningMethodUnsupported(InvalidInput):
    code = "unsupported_method"


class FineTuningUnsupported(InvalidInput):
    """A part of OpenAI's fine-tuning API that we do not have: refused by name, never ignored."""

    code = "unsupported"


class HyperparametersConflict(InvalidInput):
    """The same hyperparameter was given two values, in `method` and in the deprecated `hyperparameters`."""

    code = "conflicting_hyperparameters"


class QuantisationUnavailable(InvalidInput):
    """The library that holds a base model in four bits is not installed where the job would run."""

    code = "quantisation_unavailable"


class ShardingUnsupported(InvalidInput):
    """The weights of this job cannot be spread over its processes."""

    code = "sharding_unsupported"


class TrainingFileNotFound(InvalidInput):
    """A 400, as OpenAI answers an unknown file in a job's body."""

    code = "file_not_found"


class WrongFilePurpose(InvalidInput):
    code = "invalid_file_purpose"


class TrainingJobNotFound(NotFound):
    code = "fine_tuning_job_not_found"


class RecipeNotFound(NotFound):
    """Asked for by its address; in a body an unknown recipe is a 400 (UnknownRecipe)."""

    code = "recipe_not_found"


class BaseModelNotFound(NotFound):
    code = "model_not_found"


class DatasetNotFound(NotFound):
    code = "dataset_not_found"


class AdapterNotFound(NotFound):
    code = "adapter_not_found"


class DatasetNotReady(Conflict):
    """A 400, not a 409: OpenAI's client retries 409, and seconds of retrying do not make a dataset ready."""

    status = 400
    code = "dataset_not_ready"


class CorpusNotFound(InvalidInput):
    """A 400, as an unknown file in a job's body is."""

    code = "vector_store_not_found"


class CorpusNotReady(Conflict):
    """A 400, not a 409, which OpenAI's client would retry."""

    status = 400
    code = "vector_store_not_ready"


class JobNotPausable(Conflict):
    """A 400, not a 409, which OpenAI's client would retry."""

    status = 400
    code = "job_not_pausable"


class JobNotResumable(Conflict):
    status = 400
    code = "job_not_resumable"


class TrainingFailed(UpliftError):
    """The run ended badly for a reason that the child named."""

    code = "training_failed"


class NonFiniteLoss(TrainingFailed):
    code = "non_finite_loss"


class OutOfMemory(TrainingFailed):
    code = "out_of_memory"


class DiskFull(TrainingFailed):
    """Worth another try: the run goes on from its last checkpoint once there is room."""

    code = "disk_full"
    retryable = True


class DoesNotFit(TrainingFailed):
    """The run was rehearsed and would take more memory than there is; the message says what to lower."""

    code = "does_not_fit"


class ExceedsBudget(TrainingFailed):
    """The run was rehearsed and would take longer than the job's `max_minutes`."""

    code = "exceeds_budget"


class TrainingChildDied(RuntimeError):
    """The child ended without a word (a kill, a crash): no verdict on the job, so it is tried again and resumes."""


class TrainingChildStopped(RuntimeError):
    """The child was asked to stop and did: `saved` says whether it left a checkpoint first."""

    def __init__(self, wish: str, *, saved: bool) -> None:
        super().__init__(f"stopped for {wish}")
        self.wish = wish
        self.saved = saved


_BY_CODE: dict[str, type[UpliftError]] = {
    kind.code: kind
    for kind in (
        InvalidTrainingFile,
        InvalidRecipe,
        NoTrainingExamples,
        AdapterMismatch,
        NoChatTemplate,
        QuantisationUnavailable,
        ShardingUnsupported,
        NonFiniteLoss,
        OutOfMemory,
        DiskFull,
        DoesNotFit,
        ExceedsBudget,
    )
}


def error_named(code: str, message: str, param: str | None = None) -> UpliftError:
    """The error that a child reported by its code."""
    return _BY_CODE.get(code, TrainingFailed)(message, param=param)
