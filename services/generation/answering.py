"""What the service asks of a generation engine, and what it hears back; pure values and one protocol."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class AdapterRef:
    """Fine-tuned weights by a name that is unique on this worker, and the folder they lie in: a LoRA adapter's, or a
    whole model's."""

    name: str
    folder: Path

    @property
    def is_whole_model(self) -> bool:
        """Whether they stand for themselves; an engine of their own answers with them then."""
        return (self.folder / "config.json").is_file() and not (self.folder / "adapter_config.json").is_file()


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. Temperature 0 and `top_p` 0 are greedy; `seed` makes sampling repeatable in any batch."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int | None = None
    """Of the first choice; the choices after it count up from it."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit for every time that the answer has it already."""
    presence_penalty: float = 0.0
    """Subtracted from a token's logit once the answer has it."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these tokens."""
    top_logprobs: int | None = None
    """How many of the likeliest tokens to report beside each chosen one; None reports no probabilities."""
    json_schema: str | None = None
    """A JSON Schema, as JSON, that the answer must satisfy."""


def _never() -> bool:
    return False


@dataclass(frozen=True)
class GenerationRequest:
    """Final chat messages (already rendered by the prompt), an adapter or none, and how to sample."""

    messages: list[dict[str, str]]
    sampling: Sampling
    adapter: AdapterRef | None = None
    choices: int = 1
    """Answers to the same messages, each chosen on its own."""
    max_tokens_param: str | None = None
    """The field in which the caller named `max_tokens`: more than the window has room for is then refused in its name.
    None cuts the answer to what is left."""
    deadline: float | None = None
    """By `time.monotonic()`, in seconds; past it the answer ends with DeadlineExceeded."""
    abandoned: Callable[[], bool] = _never
    """Asked between tokens, cheaply; true frees the slot."""
    interactive: bool = True
    """Someone is waiting for it: it is read before requests of batches."""


@dataclass(frozen=True)
class TokenLogprob:
    """A token as its bytes, and the natural logarithm of the probability that the model itself gave it.

    That is before temperature, penalties, biases and constraints.
    """

    token: bytes
    logprob: float
    alternatives: tuple["TokenLogprob", ...] = ()
    """The likeliest tokens in its place, the likeliest first."""


@dataclass(frozen=True)
class Delta:
    """More text of a choice; never a broken character, never part of a stop string."""

    text: str
    choice: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens that the text ends or begins; none unless asked for."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Of this choice so far."""


@dataclass(frozen=True)
class Finished:
    """The end of a choice, with exact token counts and times in milliseconds since the request was submitted."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    prefill_ms: float
    total_ms: float
    choice: int = 0


class GenerationStream(Protocol):
    """A request's choices as they are written: each has deltas, then one Finished.

    Iterating ends with the last Finished, or raises the error that ended one of them, and then all of them.
    """

    def __iter__(self) -> Iterator[Delta | Finished]: ...

    def cancel(self) -> None:
        """Free the slot at the next token."""
        ...


class GenerationEngine(Protocol):
    """One base model that answers many requests at once."""

    def submit(self, request: GenerationRequest) -> GenerationStream: ...

    def count_tokens(self, text: str) -> int: ...

    def retire(self) -> None:
        """Take no more requests and end once those in flight are answered."""
        ...

    def stop(self) -> None:
        """End now; requests in flight end with an error."""
        ...
