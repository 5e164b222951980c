"""Examples, splits and the dataset's fingerprint: the values that every other part of this service passes around."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """A conversation that ends with a question, and the reference answer to it.

    `documents` are the keys (file names in the corpus) of the documents that hold the answer; empty when unknown.
    `line` is where it stood in its source, for reports. `passages` are a RAFT row's, in the order they will be shown.
    """

    messages: tuple[Message, ...]
    answer: str
    documents: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    passages: tuple[dict[str, Any], ...] | None = None
    line: int = 0

    @property
    def question(self) -> str:
        """Everything that was said before the answer, without the system prompt: what the model must react to."""
        return "\n".join(turn.content for turn in self.messages if turn.role != "system")

    @property
    def kind(self) -> str:
        """The slice that splits are balanced over: metadata `kind`, or the empty string."""
        found = self.metadata.get("kind", "")
        return found if isinstance(found, str) else json.dumps(found, sort_keys=True)


@dataclass(frozen=True)
class Placed:
    """An example with its split and its cluster, the group that may not be torn apart and is resampled as one."""

    example: Example
    split: Split
    cluster: str


@dataclass(frozen=True)
class Fractions:
    """The share of examples each split should get; they add up to 1 and train gets something."""

    train: float = 0.7
    validation: float = 0.1
    test: float = 0.2

    def __post_init__(self) -> None:
        shares = (self.train, self.validation, self.test)
        if not all(0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-6 or self.train == 0:
            raise ValueError(f"train, validation and test must be shares that add up to 1, train above 0; got {shares}")

    def of(self, split: Split) -> float:
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]


def sizes(placed: Iterable[Placed]) -> dict[str, int]:
    """Examples per split, zeros included."""
    counted = Counter(one.split for one in placed)
    return {split: counted[split] for split in SPLITS}


def fingerprint(placed: Sequence[Placed]) -> str:
    """sha256 (hex) over one canonical JSON line an example: content, split and cluster, in order.

    Where an example came from is not part of it: the same content imported twice has the same fingerprint.
    """
    digest = hashlib.sha256()
    for one in placed:
        digest.update(canonical(_content(one)).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def canonical(value: Any) -> str:
    """JSON with one spelling: sorted keys, no spaces, no escapes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _content(one: Placed) -> dict[str, Any]:
    example = one.example
    return {
        "messages": [[turn.role, turn.content] for turn in example.messages],
        "answer": example.answer,
        "documents": list(example.documents),
        "metadata": example.metadata,
        "passages": None if example.passages is None else list(example.passages),
        "split": one.split,
        "cluster": one.cluster,
    }
