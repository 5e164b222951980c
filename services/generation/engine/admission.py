"""Who is read next: interactive requests first, then in order of arrival, similar lengths together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

_PADDING = 1.3
"""A prefill may be this many times larger than its prompts: past it, reading them apart costs less than padding."""
_SMALL = 64
"""Tokens of padding that cost less than another pass."""


class Waiting(Protocol):
    """A request that waits for its slot."""

    @property
    def interactive(self) -> bool: ...

    @property
    def prompt_length(self) -> int: ...

    @property
    def prompt_id(self) -> int:
        """Choices of one request share their prompt, which is read once."""
        ...

    @property
    def final_length(self) -> int:
        """Prompt and the longest answer it may get: what its row of the cache may grow to."""
        ...


@dataclass(frozen=True)
class Limits:
    """Sizes that bound memory and the pause that reading prompts means for those who are being answered."""

    rows: int
    prefill_tokens: int
    cache_tokens: int


W = TypeVar("W", bound=Waiting)


def next_prefill(waiting: Sequence[W], running: Sequence[Waiting], limits: Limits) -> list[W]:
    """The requests to read next, none if nobody fits yet.

    Whoever is first is always among them or waited for, so that nobody starves; the others are those closest in length.
    """
    ordered = sorted(waiting, key=lambda one: not one.interactive)  # stable: keeps the order of arrival
    if not ordered or (running and not _fits([*running, ordered[0]], limits)):
        return []
    first, *others = ordered
    chosen = [first]
    for one in sorted(others, key=lambda one: (not one.interactive, abs(one.prompt_length - first.prompt_length))):
        if _fits([*running, *chosen, one], limits) and _reads_well([*chosen, one], limits):
            chosen.append(one)
    return chosen


def _fits(rows: Sequence[Waiting], limits: Limits) -> bool:
    cells = len(rows) * max(row.final_length for row in rows)
    return len(rows) <= limits.rows and cells <= limits.cache_tokens


def _reads_well(rows: Sequence[Waiting], limits: Limits) -> bool:
    lengths = {row.prompt_id: row.prompt_length for row in rows}.values()
    cells = len(lengths) * max(lengths)
    return cells <= limits.prefill_tokens and cells <= _PADDING * sum(lengths) + _SMALL
