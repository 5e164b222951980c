"""What the worker and the training child say to each other: one order in a file, then events as JSON lines."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from services.training.recipe import Recipe

HANDED_OVER = 75
"""The child's exit status after SIGTERM: its checkpoint is written (EX_TEMPFAIL of sysexits.h)."""

MEETING = "meeting"
"""The file beside the order where several training processes of one machine meet: not there before they start."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class TrainingOrder(_Message):
    """Everything a run needs. Rows are JSON lines, as `services/training/lora/examples.py` reads them."""

    base_model: str
    model_dir: Path
    init_adapter_dir: Path | None = None
    train_file: Path
    validation_file: Path | None = None
    replay_file: Path | None = None
    recipe: Recipe
    state_dir: Path
    checkpoint_dir: Path
    output_dir: Path
    home: Path
    shard: Literal["none", "full"] = "none"
    """What several processes spread over themselves: nothing (each holds the whole model), or every weight."""
    threads: int | None = None
    """How many to compute with; None uses what is free just then."""
    data_sha256: str
    """Hash of the training data, for the model card and so that no checkpoint of other data is resumed."""
    most_bytes: int | None = None
    """Memory that the run may take, besides what the machine has."""
    max_minutes: float | None = None
    """A run that would take longer is refused before its first step."""
    recorded_step: int = 0
    """The last step that the worker has recorded: a resumed run says again what came after it."""


class Started(_Message):
    event: Literal["started"] = "started"
    total_steps: int
    train_examples: int
    validation_examples: int
    replay_examples: int = 0
    left_out: int
    """Examples longer than `max_length`."""
    longest: int
    """Tokens of the longest example, whether it was left out or not."""
    leaked: int
    """Validation examples that a training example repeats or nearly repeats."""
    resumed_from: int
    resumed_with: dict[str, tuple[str, str]] = {}
    """What of the surroundings is not as it was when the resumed state was written: name to (then, now)."""
    precision: Literal["bfloat16", "float32"]
    device: str
    trainable_parameters: int
    recipe: Recipe
    """The recipe as it runs: an adapter to continue from decides rank, alpha and targets."""


class Estimated(_Message):
    """What the run will take, measured by two rehearsed steps; not said by a run that was resumed."""

    event: Literal["estimated"] = "estimated"
    total_steps: int
    peak_bytes: int
    """Memory at its most, of the training processes added up."""
    limit_bytes: int | None
    """What there is of it; None where the system doesn't say."""
    seconds: float
    """From here to the planned end of the training process, validations and files included."""
    tokens_per_second: float
    """Tokens of the examples, prompt and completion, as in `Stepped.tokens`."""
    longest: int
    """Tokens of the longest example that is trained on."""


class Stepped(_Message):
    """One optimiser step. Losses are mean nats per completion token, of `dpo` mean nats per pair."""

    event: Literal["step"] = "step"
    step: int
    total_steps: int
    epoch: float
    train_loss: float
    train_mean_token_accuracy: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    """Tokens of the examples, prompt and completion; shared prefixes count in every example."""
    computed_tokens: int
    """Tokens that went through the model after prefixes were shared."""
    replay_tokens: int | None = None
    """Those of `tokens` that were replayed."""
    replay_loss: float | None = None
    """Of what was replayed; `train_loss` is of the rest alone."""
    seconds: float
    memory_bytes: int
    """Peak memory of the training processes so far, added up: resident, or the GPU's where they compute on one."""
    valid_loss: float | None = None
    """Of at most `max_validation_examples` examples, the same ones each time."""
    valid_loss_error: float | None = None
    """Standard error of `valid_loss`: how far another draw of as many examples would lie off."""
    train_eval_loss: float | None = None
    """Measured as `valid_loss` is, after the step and without dropout, of a few training examples, the same ones each
    time: the two can be compared, which `train_loss` and `valid_loss` cannot."""
    train_eval_loss_error: float | None = None
    train_eval_noise: float | None = None
    """How much dropout and NEFTune add to `train_eval_loss`, on the same examples; None where a recipe has neither."""
    train_eval_noise_error: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    """Of all validation examples: measured at the end, and wherever they are few enough."""
    full_valid_mean_token_accuracy: float | None = None
    train_reward_accuracy: float | None = None
    """`dpo` only: the share of pairs whose preferred answer has the higher reward."""
    train_reward_margin: float | None = None
    valid_reward_accuracy: float | None = None
    valid_reward_margin: float | None = None
    seconds_left: float | None = None
    """To the planned end of the training process, from the measured times of steps, validations and files; None until
    they are known."""

    @property
    def tokens_per_second(self) -> float | None:
        """`tokens` a second of the step itself, without the validation after it; None where no time was measured."""
        return self.tokens / self.seconds if self.seconds > 0 else None

    def figures(self) -> dict[str, Any]:
        """All that is known of the step, by name, as events and loggers tell it; what was not measured is left out."""
        told = self.model_dump(mode="json", exclude={"event"}, exclude_none=True)
        speed = self.tokens_per_second
        return told if speed is None else told | {"tokens_per_second": speed}


class StateSaved(_Message):
    """All that a resumed run needs, as of the step; the folder is replaced by later ones."""

    event: Literal["state"] = "state"
    step: int
    folder: Path


class CheckpointSaved(_Message):
    """The step's weights as an adapter that peft loads; `metrics` are the step's own."""

    event: Literal["checkpoint"] = "checkpoint"
    step: int
    folder: Path
    metrics: dict[str, float | None]


class Probed(_Message):
    """General questions, scored before the training and with the weights that are kept: what it made the model forget.

    Losses are means over the questions, each in nats per token of its answer.
    """

    event: Literal["probe"] = "probe"
    questions: int
    before: float
    after: float
    change_error: float | None
    """Standard error of the mean change, question by question."""


class Finished(_Message):
    event: Literal["done"] = "done"
    steps: int
    best_step: int
    valid_loss: float | None
    valid_mean_token_accuracy: float | None
    train_loss: float
    trained_tokens: int
    train_seconds: float
    stopped_early: bool


class Failed(_Message):
    event: Literal["error"] = "error"
    code: str
    message: str
    param: str | None = None


ChildEvent = Annotated[
    Started | Estimated | Stepped | StateSaved | CheckpointSaved | Probed | Finished | Failed,
    Field(discriminator="event"),
]
_EVENTS: TypeAdapter[ChildEvent] = TypeAdapter(ChildEvent)


def parse_event(line: bytes) -> ChildEvent:
    """One line of the child's standard output."""
    return _EVENTS.validate_json(line)
