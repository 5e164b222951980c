"""What clients send to `/fine_tuning/jobs`: OpenAI's fields, and ours through `extra_body`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from shared.prompt_format import PromptSpec

Auto = Literal["auto"]


class Hyperparameters(BaseModel):
    """OpenAI's three; "auto" leaves a value to the recipe. The multiplier multiplies the default learning rate."""

    model_config = ConfigDict(extra="forbid")

    n_epochs: Auto | Annotated[int, Field(ge=1, le=1000)] | None = None
    batch_size: Auto | Annotated[int, Field(ge=1, le=4096)] | None = None
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0, le=100)] | None = None


class Supervised(BaseModel):
    hyperparameters: Hyperparameters = Hyperparameters()


class Method(BaseModel):
    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised = Supervised()


class CreateJob(BaseModel):
    """`training_file` may also name a dataset (`ds_…`); `dataset` says the same more plainly."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    training_file: str | None = None
    validation_file: str | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    suffix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    integrations: list[dict[str, Any]] | None = None

    dataset: str | None = None
    recipe: str | dict[str, Any] = "default"
    """A recipe's name, or differences to the default (`base` names another start)."""
    prompt: PromptSpec = PromptSpec()
    """The layout in which the adapter will be served."""
    max_passage_tokens: Annotated[int, Field(ge=1)] | None = None
    """Budget for all passages of a row, the same as when serving."""
    init_adapter: str | None = None
    """An adapter (its id or its model id) to continue from."""
