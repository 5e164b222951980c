"""What clients send to `/searches`."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints

from services.training.schemas import Metadata, Suffix
from shared.body import Body
from shared.prompt_format import PromptSpec

_MOST_CHOICES = 64


class Range(Body):
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = Field(False, description="Even on a logarithmic scale: as many tries from 1e-4 to 1e-3 as to 1e-2.")
    step: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Only `low`, `low` + `step`, … ; not with `log`."
    )


class Choices(Body):
    """One of these values; their order says nothing."""

    choices: Annotated[list[bool | int | float | str], Field(min_length=2, max_length=_MOST_CHOICES)]


class CreateSearch(Body):
    """What to train on, what to vary, and how much may be spent on it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "smollm2-135m-instruct",
                    "dataset": "ds_abc123",
                    "space": {
                        "learning_rate": {"low": 1e-4, "high": 4e-3, "log": True},
                        "rank": {"choices": [8, 16, 32]},
                    },
                    "trials": 20,
                    "minutes": 60,
                    "parallel": 2,
                }
            ]
        },
    )

    model: Annotated[str, StringConstraints(min_length=1, max_length=512)] = Field(
        description="A base model's id, or a fine-tuned model's or checkpoint's that every trial continues from."
    )
    dataset: str | None = Field(None, description="A dataset with a validation split.")
    training_file: str | None = Field(
        None, description="A file of purpose `fine-tune` (JSON lines) in place of `dataset`; needs a validation_file."
    )
    validation_file: str | None = Field(
        None, description="A file like the training file; without one, the dataset's own validation split is used."
    )
    recipe: str | dict[str, Any] = Field(
        "default", description="What all trials share: a recipe's name, or differences. It is tried first."
    )
    space: Annotated[dict[str, Range | Choices], Field(min_length=1, max_length=16)] | None = Field(
        None,
        description="What varies: fields of the recipe, each with a range or choices. Left out: learning_rate, rank, "
        "batch_size, dropout, weight_decay, epochs and neftune_alpha, in ranges around the default recipe.",
    )
    trials: Annotated[int, Field(ge=1, le=1000)] = Field(20, description="At most so many; failed ones count.")
    minutes: Annotated[float, Field(gt=0, le=43200)] | None = Field(
        None, description="After so many minutes (pauses not counted) what still runs is stopped; null is no limit."
    )
    parallel: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="Trials at once. Fewer learn more from each other; more are sooner done where workers are free."
    )
    pruning: bool = Field(True, description="Stop trials that fall behind, by successive halving.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="Decides what is tried, and every trial's run.")
    suffix: Suffix = Field(None, description="Part of the model ids of what the trials train.")
    metadata: Metadata = Field(
        default_factory=dict, description="At most 16 pairs; keys up to 64 characters, values up to 512."
    )
    prompt: PromptSpec = Field(PromptSpec(), description="The layout in which the adapter will be served.")
    max_passage_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Budget for all passages of a row together, the same as when serving."
    )
