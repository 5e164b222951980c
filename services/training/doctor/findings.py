"""What a rule says: the verdict, the numbers it stands on with their steps, and the one remedy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal[
    "leak_suspected",
    "truncated_answers",
    "learning_rate_too_high",
    "learning_rate_too_low",
    "over_regularised",
    "underfitting",
    "overfitting",
    "too_little_data",
    "forgetting",
]


@dataclass(frozen=True)
class Evidence:
    """One number, the limit that it crossed where there is one, and the steps (first, last) that it comes from."""

    name: str
    value: float
    limit: float | None = None
    steps: tuple[int, int] | None = None


@dataclass(frozen=True)
class Finding:
    """One verdict. `remedy` holds the recipe fields to change, as `Recipe.from_differences` takes them."""

    verdict: Verdict
    summary: str
    evidence: tuple[Evidence, ...]
    remedy: Mapping[str, Any]
    advice: str
