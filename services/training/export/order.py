"""What the worker and the exporting child say to each other: one order in a file, then events as JSON lines."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from services.training.export.schemas import Dtype
from services.training.order import Failed


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class GgufFacts(_Message):
    """What a GGUF file says of itself."""

    name: str
    base_model: str
    licence: str | None
    card: str


class ExportOrder(_Message):
    """Write one whole model into `output_dir`: a folder as transformers has it, or with `gguf` one file of that."""

    model_dir: Path
    """The base model, or the whole model itself where there is no adapter."""
    adapter_dir: Path | None
    dtype: Dtype
    output_dir: Path
    home: Path
    gguf: GgufFacts | None = None


class Advanced(_Message):
    """A part of the work begins."""

    event: Literal["advanced"] = "advanced"
    done: int
    total: int
    message: str


class Exported(_Message):
    """The last word: the files are written."""

    event: Literal["exported"] = "exported"
    dtype: str
    largest_logit_difference: float
    """Between what was written and the model as it was (the adapter beside its base, in float32), over `positions` of
    a fixed text: rounding, and nothing else."""
    logit_spread: float
    """Standard deviation of those logits, to judge the difference by."""
    same_next_tokens: int
    """At how many of the positions both would say the same token."""
    positions: int


GGUF_FILE = "model.gguf"
ExportEvent = Annotated[Advanced | Exported | Failed, Field(discriminator="event")]
_EVENTS: TypeAdapter[ExportEvent] = TypeAdapter(ExportEvent)


def parse_event(line: bytes) -> ExportEvent:
    """One line of the child's standard output."""
    return _EVENTS.validate_json(line)
