"""What clients send to `/fine_tuning/jobs`: OpenAI's fields, and ours through `extra_body`."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PlainValidator, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from shared.body import Body
from shared.prompt_format import PromptSpec

_SUFFIX_PATTERN = r"^[A-Za-z0-9_.-]*[A-Za-z0-9][A-Za-z0-9_.-]*$"
_MOST_METADATA, _LONGEST_KEY, _LONGEST_VALUE = 16, 64, 512


def _auto_or(least: float, most: float, *, whole: bool) -> Callable[[Any], Any]:
    """Takes "auto", null or a number; one check, so that an error names the field and nothing below it."""
    kind = "a whole number" if whole else "a number"

    def check(value: Any) -> Any:
        if value is None or value == "auto":
            return value
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not least <= value <= most or (whole and value != int(value)):
            raise PydanticCustomError(
                "hyperparameter", f'must be "auto" or {kind} from {least:g} to {most:g}, not {_shown(value)}'
            )
        return int(value) if whole else float(value)

    return check


def _auto_schema(least: float, most: float, *, whole: bool) -> dict[str, Any]:
    number = {"type": "integer" if whole else "number", "minimum": least, "maximum": most}
    return {"anyOf": [{"const": "auto", "type": "string"}, number, {"type": "null"}]}


Epochs = Annotated[
    int | str | None, PlainValidator(_auto_or(1, 1000, whole=True)), WithJsonSchema(_auto_schema(1, 1000, whole=True))
]
BatchSize = Annotated[
    int | str | None, PlainValidator(_auto_or(1, 4096, whole=True)), WithJsonSchema(_auto_schema(1, 4096, whole=True))
]
Positive = Annotated[
    float | str | None,
    PlainValidator(_auto_or(1e-4, 100, whole=False)),
    WithJsonSchema(_auto_schema(1e-4, 100, whole=False)),
]


class Hyperparameters(Body):
    """OpenAI's three. "auto" (or nothing) is chosen from the data and then echoed as a number."""

    n_epochs: Epochs = Field(None, description="Passes over the training examples.")
    batch_size: BatchSize = Field(None, description="Examples per optimiser step.")
    learning_rate_multiplier: Positive = Field(
        None,
        description="Times the method's default learning rate: 1e-3, and 1e-4 for dpo.",
    )


class DpoHyperparameters(Hyperparameters):
    """OpenAI's four of `dpo`."""

    beta: Positive = Field(None, description="How strongly the policy is held to the reference model; auto is 0.1.")


class Supervised(Body):
    hyperparameters: Hyperparameters | None = None


class Dpo(Body):
    hyperparameters: DpoHyperparameters | None = None


class ContinuedPretraining(Body):
    hyperparameters: Hyperparameters | None = None


class Method(Body):
    """How to learn: from answers (`supervised`), from pairs of answers (`dpo`), or, not in OpenAI's API, from documents
    (`continued_pretraining`)."""

    type: Annotated[
        Literal["supervised", "dpo", "continued_pretraining", "reinforcement"],
        WithJsonSchema({"type": "string", "enum": ["supervised", "dpo", "continued_pretraining"]}),
    ] = Field(description="`reinforcement` is refused with a 400.")
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    continued_pretraining: ContinuedPretraining | None = None
    reinforcement: Annotated[Any, WithJsonSchema({"type": "null"})] = Field(
        None, description="Not supported; accepted so that the refusal can name the method."
    )


def _suffix(value: Any) -> Any:
    allowed = isinstance(value, str) and len(value) <= 64 and re.fullmatch(_SUFFIX_PATTERN, value)
    if value is not None and not allowed:
        raise PydanticCustomError(
            "suffix", "may hold 1 to 64 ASCII letters, digits, hyphens, underscores and dots, with a letter or digit"
        )
    return value


def _metadata(value: Any) -> Any:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > _MOST_METADATA:
        raise PydanticCustomError("metadata", f"must be an object of at most {_MOST_METADATA} pairs")
    for key, text in value.items():
        if len(key) > _LONGEST_KEY or not isinstance(text, str) or len(text) > _LONGEST_VALUE:
            raise PydanticCustomError(
                "metadata",
                f"keys are strings of at most {_LONGEST_KEY} characters and values strings of at most "
                f"{_LONGEST_VALUE}; {_shown(key)} is not such a pair",
            )
    return value


Suffix = Annotated[
    str | None,
    PlainValidator(_suffix),
    WithJsonSchema({"type": ["string", "null"], "maxLength": 64, "pattern": _SUFFIX_PATTERN}),
]
Metadata = Annotated[
    dict[str, str],
    PlainValidator(_metadata),
    WithJsonSchema(
        {"type": ["object", "null"], "maxProperties": _MOST_METADATA, "additionalProperties": {"type": "string"}}
    ),
]


class CreateJob(Body):
    """OpenAI's body; `dataset`, `replay_file`, `recipe`, `prompt`, `max_passage_tokens`, `max_minutes` and
    `init_adapter` are ours (`extra_body`)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "smollm2-135m-instruct",
                    "training_file": "file-abc123",
                    "suffix": "support",
                    "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "auto"}}},
                },
                {
                    "model": "smollm2-135m-instruct",
                    "training_file": "file-pairs",
                    "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1}}},
                },
                {
                    "model": "smollm2-135m-instruct",
                    "training_file": "vs_handbook",
                    "method": {"type": "continued_pretraining"},
                },
            ]
        },
    )

    model: Annotated[str, StringConstraints(min_length=1, max_length=512)] = Field(
        description="A base model's id, or a fine-tuned model's or checkpoint's to continue from."
    )
    training_file: str | None = Field(
        None,
        description="A file of purpose `fine-tune` (JSON lines), a dataset's id (`ds_…`), or for "
        "continued_pretraining a vector store's (`vs_…`), whose documents are meant.",
    )
    validation_file: str | None = Field(
        None,
        description="A file like the training file; without one, a dataset's own validation split is used, and of "
        "documents the recipe's `validation_share` is held out.",
    )
    method: Method | None = None
    hyperparameters: Hyperparameters | None = Field(
        None, description="Deprecated; use `method`.", json_schema_extra={"deprecated": True}
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        None, description="Equal seeds, data and recipes give equal adapters; 0 when left out."
    )
    suffix: Suffix = Field(
        None, description="Part of the model's id: letters, digits, hyphens, underscores, dots; at most 64."
    )
    metadata: Metadata = Field(
        default_factory=dict, description="At most 16 pairs; keys up to 64 characters, values up to 512."
    )
    integrations: list[dict[str, Any]] | None = Field(
        None, description="Must be empty: none is supported.", json_schema_extra={"maxItems": 0}
    )

    replay_file: str | None = Field(
        None,
        description="A file of purpose `fine-tune`, chats or `text` rows, of what the model shall not forget: the "
        "recipe's `replay_ratio` of every batch is drawn from it.",
    )
    dataset: str | None = Field(None, description="A dataset to train on, in place of `training_file`.")
    recipe: str | dict[str, Any] = Field(
        "default", description="A recipe's name, or differences to the default (`base` names another start)."
    )
    prompt: PromptSpec = Field(PromptSpec(), description="The layout in which the adapter will be served.")
    max_passage_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Budget for all passages of a row together, the same as when serving."
    )
    max_minutes: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        None, description="Refuse the job before its first step (`exceeds_budget`) if training would take longer."
    )
    init_adapter: str | None = Field(None, description="An adapter (its id or its model id) to continue from.")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
