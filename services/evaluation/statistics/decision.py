"""From intervals and p-values to a plain word, corrected for asking several questions at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from services.evaluation.statistics.power import ALPHA

Verdict = Literal["better", "worse", "equivalent", "inconclusive"]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the order given (Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979).

    Rejecting where the adjusted value is at most alpha keeps the chance of any false rejection in the family
    at alpha or below, whatever the dependence. Raises ValueError for a value outside 0..1.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values lie between 0 and 1, got {list(p_values)}")
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def verdict(
    *,
    p_holm: float,
    low: float,
    high: float,
    equivalence_low: float,
    equivalence_high: float,
    margin: float,
) -> Verdict:
    """`better`/`worse`: corrected p at most 0.05 and the 95 % interval on that side of zero; else `equivalent`:
    the 90 % interval strictly inside ± margin (two one-sided tests at 5 %: Schuirmann 1987); else `inconclusive`.
    """
    if p_holm <= ALPHA and low > 0:
        return "better"
    if p_holm <= ALPHA and high < 0:
        return "worse"
    if -margin < equivalence_low and equivalence_high < margin:
        return "equivalent"
    return "inconclusive"
