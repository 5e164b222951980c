"""What the service asks of a generation engine, and what it hears back; pure values and one protocol."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class AdapterRef:
    """A LoRA adapter by a name that is unique on this worker, and the folder it lies in."""

    name: str
    folder: Path


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. Temperature 0 is greedy; `seed` makes sampling repeatable in any batch."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int | None = None


def _never() -> bool:
    return False


@dataclass(frozen=True)
class GenerationRequest:
    """Final chat messages (already rendered by the prompt), an adapter or none, and how to sample."""

    messages: list[dict[str, str]]
    sampling: Sampling
    adapter: AdapterRef | None = None
    deadline: float | None = None
    """By `time.monotonic()`, in seconds; past it the answer ends with DeadlineExceeded."""
    abandoned: Callable[[], bool] = _never
    """Asked between tokens, cheaply; true frees the slot."""
    interactive: bool = True
    """Someone is waiting for it: it is read before requests of batches."""


@dataclass(frozen=True)
class Delta:
    """More text of an answer; never a broken character, never part of a stop string."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The end of an answer, with exact token counts and times in milliseconds since the request was submitted."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    prefill_ms: float
    total_ms: float


class GenerationStream(Protocol):
    """One answer as it is written: deltas, then one Finished. Iterating raises the error that ended it, if one did."""

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
