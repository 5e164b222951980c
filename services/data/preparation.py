"""From parsed examples to a frozen dataset: drop repeats, group, split, measure. Pure: same input, same result."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.data.clusters import cluster_names
from services.data.domain import Example, Fractions, Placed
from services.data.duplicates import Beat, drop_exact, near_pairs
from services.data.quality import quality_report
from services.data.splits import assign


@dataclass(frozen=True)
class Prepared:
    """A dataset ready to be stored."""

    placed: list[Placed]
    report: dict[str, Any]


def prepare(
    examples: Sequence[Example],
    fractions: Fractions,
    *,
    seed: int,
    long_chars: int = 8_000,
    beat: Beat = lambda: None,
) -> Prepared:
    """Clean examples in, placed examples and their quality report out; `beat` is called between batches."""
    kept, repeats = drop_exact(examples)
    near = near_pairs(kept, beat)
    placed = assign(kept, cluster_names(kept, near), fractions, seed=seed)
    return Prepared(placed, quality_report(placed, repeats, near, long_chars=long_chars))
