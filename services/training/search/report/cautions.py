"""What a reader of a search's report should know before using its best recipe."""

from collections.abc import Collection, Mapping
from typing import Any

_STEPS_DECIDE = ("learning_rate", "batch_size", "epochs", "max_steps", "warmup_ratio")
"""What is best for these depends on how many steps a run has, and so on the number of rows."""


def warning(recipe: Mapping[str, Any], searched: Collection[str]) -> str | None:
    """Where trials learned from a share of the rows, and what was searched depends on the number of steps.

    Measured on the demo (docs/benchmarks.md): the best of a search on a third of the rows was no better on all of them.
    """
    share = recipe.get("train_share", 1.0)
    doubtful = [name for name in _STEPS_DECIDE if name in searched]
    if share >= 1 or not doubtful:
        return None
    return (
        f"Its trials learned from {share:.0%} of the rows, and what is best for {', '.join(doubtful)} depends on the "
        "number of steps: measure the best recipe against the base on all rows before you use it."
    )
