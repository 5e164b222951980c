"""The comparison of two variants that answered the same questions."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from services.evaluation.statistics import permutation
from services.evaluation.statistics.clusters import BadSample, ClusterSums, group_by_cluster
from services.evaluation.statistics.decision import Verdict, verdict
from services.evaluation.statistics.exact import all_alike_interval
from services.evaluation.statistics.means import bootstrap_intervals
from services.evaluation.statistics.permutation import sign_flip_p_value
from services.evaluation.statistics.power import smallest_visible_difference

_LEVELS = (0.95, 0.90)


@dataclass(frozen=True)
class PairedDifference:
    """Treated minus baseline, averaged over examples, with everything a verdict needs. Never NaN.

    low, high: the 95 % interval; equivalence_low, equivalence_high: the 90 % interval.
    p_value: two-sided, not yet corrected for the family.
    degenerate: every cluster showed the same difference; the intervals are then exact bounds (see exact.py).
    smallest_visible_difference: at 80 % power and alpha 0.05; None if this test set could show none at all.
    """

    difference: float
    low: float
    high: float
    equivalence_low: float
    equivalence_high: float
    p_value: float
    p_method: permutation.Method
    degenerate: bool
    smallest_visible_difference: float | None
    examples: int
    clusters: int
    margin: float
    resamples: int
    seed: int

    def verdict(self, p_holm: float) -> Verdict:
        """The plain word, given this comparison's p-value corrected over its family."""
        return verdict(
            p_holm=p_holm,
            low=self.low,
            high=self.high,
            equivalence_low=self.equivalence_low,
            equivalence_high=self.equivalence_high,
            margin=self.margin,
        )


def paired_difference(
    treated: ArrayLike,
    baseline: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    seed: int,
    resamples: int = 10_000,
    margin: float = 0.02,
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> PairedDifference:
    """Compare two variants' scores of the same examples, in the same order.

    treated, baseline: (N,) scores; clusters: N source documents, the unit of resampling and of sign flips;
    bounds: the least and greatest possible difference of one example (for scores within 0..1: -1..1).
    Raises BadSample. The same seed and data give the same result, whatever the order of examples.
    """
    after, before = np.asarray(treated, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if after.shape != before.shape:
        raise BadSample(f"{after.size} treated and {before.size} baseline scores: a pair needs one of each")
    differences = group_by_cluster(after - before, clusters)
    for_intervals, for_signs = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    p_value, p_method = sign_flip_p_value(differences.sums, resamples, for_signs)
    (low, high), (equivalence_low, equivalence_high) = _intervals(differences, resamples, bounds, for_intervals)
    return PairedDifference(
        difference=differences.mean,
        low=low,
        high=high,
        equivalence_low=equivalence_low,
        equivalence_high=equivalence_high,
        p_value=p_value,
        p_method=p_method,
        degenerate=differences.all_alike,
        smallest_visible_difference=smallest_visible_difference(differences, largest=bounds[1]),
        examples=after.size,
        clusters=differences.count,
        margin=margin,
        resamples=resamples,
        seed=seed,
    )


def _intervals(
    differences: ClusterSums, resamples: int, bounds: tuple[float, float], rng: np.random.Generator
) -> list[tuple[float, float]]:
    if differences.all_alike:
        return [all_alike_interval(differences.mean, differences.count, level, bounds) for level in _LEVELS]
    return bootstrap_intervals(differences, _LEVELS, bounds, resamples, rng)
