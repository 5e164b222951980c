"""What the searches' routes answer, for the API's description."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from services.training.search.domain import SearchStatus, TrialStatus
from services.training.search.space import Value
from shared.answers import Answer
from shared.jobs.answers import Failure, Progress
from shared.prompt_format import PromptSpec

_BEST: dict[str, Any] = {
    "trial": "trial_abc",
    "number": 7,
    "value": 0.48,
    "params": {"learning_rate": 0.0021, "rank": 32},
    "recipe": {"learning_rate": 0.0021, "epochs": 3.0, "batch_size": 16, "rank": 32, "alpha": 64.0},
    "changes": {"learning_rate": {"from": 0.001, "to": 0.0021}, "rank": {"from": 16, "to": 32}},
    "fine_tuned_model": "ft:smollm2-135m-instruct:default::1a2b3c4d",
}
_POINT: dict[str, Any] = {"value": 0.001, "valid_loss": 0.51, "spread": 0.01, "train_loss": 0.4, "verdict": "right"}
_IMPORTANCE: dict[str, Any] = {
    "trials": 20,
    "explained": 0.71,
    "parameters": [{"name": "learning_rate", "importance": 0.83}, {"name": "rank", "importance": 0.17}],
    "message": None,
}
_SEARCH: dict[str, Any] = {
    "id": "search_abc",
    "object": "search",
    "created_at": 1767225600,
    "finished_at": 1767228600,
    "status": "succeeded",
    "model": "smollm2-135m-instruct",
    "init_adapter": None,
    "dataset": "ds_abc",
    "training_file": None,
    "validation_file": None,
    "recipe": {"learning_rate": 0.001, "epochs": 3.0, "batch_size": 16},
    "space": {
        "learning_rate": {"low": 0.0001, "high": 0.004, "log": True, "step": None},
        "rank": {"choices": [8, 16, 32]},
    },
    "tries_base": True,
    "trials": 20,
    "minutes": 60.0,
    "parallel": 2,
    "pruning": True,
    "seed": 0,
    "suffix": None,
    "metadata": {},
    "prompt": {"system": None, "instruction": None, "shots": [], "with_passages": False},
    "max_passage_tokens": None,
    "progress": {
        "trials": {"running": 0, "complete": 14, "pruned": 6, "stopped": 0, "failed": 0},
        "seconds": 3000.0,
    },
    "best": _BEST,
    "error": None,
}
_SHOWN_TRIAL: dict[str, Any] = {
    "id": "trial_abc",
    "number": 7,
    "status": "complete",
    "params": {"learning_rate": 0.0021, "rank": 32},
    "value": 0.48,
    "curve": [{"step": 19, "total_steps": 75, "epoch": 0.76, "valid_loss": 0.71, "train_loss": 0.66}],
    "job": "ftjob-abc",
    "fine_tuned_model": "ft:smollm2-135m-instruct:default::1a2b3c4d",
    "error": None,
}


class ShownRange(Answer):
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool
    """Even on a logarithmic scale."""
    step: float | None


class ShownChoices(Answer):
    """One of these values."""

    choices: list[Value]


class TrialCounts(Answer):
    """Trials by status."""

    running: int
    complete: int
    pruned: int
    stopped: int
    failed: int


class SearchProgress(Answer):
    """What was used of the budget."""

    trials: TrialCounts
    seconds: float
    """Without pauses."""


class Change(Answer):
    """A field in which two recipes differ."""

    from_: Any = Field(alias="from")
    """The base recipe's value."""
    to: Any
    """The trial's."""


class BestTrial(Answer):
    """The complete trial with the lowest validation loss."""

    trial: str
    number: int
    value: float
    """Its validation loss, in nats per completion token."""
    params: dict[str, Value]
    """Its point of the space."""
    recipe: dict[str, Any]
    """As a fine-tuning job takes it to train the same again."""
    changes: dict[str, Change]
    """The fields in which it differs from the base recipe, those that follow from others too."""
    fine_tuned_model: str | None


class ParameterImportance(Answer):
    """How much of the differences between trials one parameter explains, 0 to 1."""

    name: str
    importance: float


class PathPoint(Answer):
    """One value of a parameter, all others as they were in the trials: what a model of the losses predicts."""

    value: float
    valid_loss: float
    spread: float
    """Standard deviation of the predicted validation loss."""
    train_loss: float
    verdict: Literal["right", "too low", "too high", "too weak", "too strong", "worse"]
    """`right` as far as can be told from the best value."""


class ImportanceSummary(Answer):
    """How much each parameter matters."""

    trials: int
    """Complete ones."""
    explained: float | None
    """The share of the losses' variance that the parameters explain (R² out of bag); null where it is not told."""
    parameters: list[ParameterImportance]
    """The most important first."""
    message: str | None
    """Why nothing is told, or what to beware of."""


class Importance(ImportanceSummary):
    """How much each parameter matters, and where it is right."""

    paths: dict[str, list[PathPoint]]
    """By parameter; those without an order have none."""


class SearchWithoutImportance(Answer):
    """A search as its report shows it."""

    id: str
    object: Literal["search"]
    created_at: int
    """Unix seconds."""
    finished_at: int | None
    """Unix seconds; null until it is over."""
    status: SearchStatus
    model: str
    """The base model."""
    init_adapter: str | None
    """The adapter or checkpoint that every trial continues from."""
    dataset: str | None
    training_file: str | None
    validation_file: str | None
    recipe: dict[str, Any]
    """What all trials share, as a fine-tuning job takes it."""
    space: dict[str, ShownRange | ShownChoices]
    """What varies, by field of the recipe."""
    tries_base: bool
    """Whether the space holds the base recipe, which then is the first trial."""
    trials: int
    """At most so many."""
    minutes: float | None
    parallel: int
    pruning: bool
    seed: int
    suffix: str | None
    metadata: dict[str, str]
    prompt: PromptSpec
    max_passage_tokens: int | None
    progress: SearchProgress
    best: BestTrial | None
    """Null until a trial is complete."""
    error: Failure | None


class SearchObject(SearchWithoutImportance):
    """A search with what it has found so far."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [_SEARCH | {"importance": _IMPORTANCE | {"paths": {"learning_rate": [_POINT]}}}]}
    )

    importance: Importance | None
    """Null until it has ended."""


class CurvePoint(Answer):
    """One validation of a trial; losses in nats per completion token."""

    step: int
    total_steps: int
    epoch: float
    valid_loss: float
    train_loss: float
    """Measured in the same way or, where it is not, the mean of the steps since the validation before."""


class TrialError(Answer):
    """Why a trial has no end of its own."""

    code: str
    message: str
    param: str | None = None
    """The field that is at fault."""


class ReportedTrial(Answer):
    """One trial of a report."""

    id: str
    number: int
    """From 0, in the order in which they began."""
    status: TrialStatus
    """`pruned`: fell behind the others. `stopped`: cancelled by hand, or the search ended first."""
    params: dict[str, Value]
    """Its point of the space."""
    value: float | None
    """Its lowest validation loss so far, in nats per completion token."""
    curve: list[CurvePoint]
    """Every validation."""
    job: str
    """Its fine-tuning job."""
    fine_tuned_model: str | None
    error: TrialError | None


class TrialObject(ReportedTrial):
    """One trial."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                _SHOWN_TRIAL
                | {
                    "object": "search.trial",
                    "search": "search_abc",
                    "created_at": 1767226800,
                    "finished_at": 1767227200,
                    "progress": None,
                }
            ]
        }
    )

    object: Literal["search.trial"]
    search: str
    created_at: int
    """Unix seconds."""
    finished_at: int | None
    """Unix seconds; null until it is over."""
    progress: Progress | None
    """While it runs."""


class SearchReport(Answer):
    """What was tried, what matters, and where each parameter is too weak, right, too strong."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "search.report",
                    "search": _SEARCH,
                    "best": _BEST,
                    "warning": None,
                    "base_value": 0.52,
                    "importance": _IMPORTANCE,
                    "paths": {"learning_rate": [_POINT]},
                    "regularisation": ["learning_rate: right at 0.001"],
                    "trials": [_SHOWN_TRIAL],
                }
            ]
        }
    )

    object: Literal["search.report"]
    search: SearchWithoutImportance
    best: BestTrial | None
    warning: str | None
    """What to know before the best recipe is used."""
    base_value: float | None
    """The validation loss of the base recipe, where it was tried."""
    importance: ImportanceSummary
    paths: dict[str, list[PathPoint]]
    """By parameter; none until the search has ended."""
    regularisation: list[str]
    """Every path in one line."""
    trials: list[ReportedTrial]
