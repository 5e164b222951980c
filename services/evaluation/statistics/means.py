"""The interval of one variant's mean score on its own."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from services.evaluation.statistics.bootstrap import bootstrap_limits
from services.evaluation.statistics.clusters import BadSample, ClusterSums, Floats, group_by_cluster
from services.evaluation.statistics.exact import all_alike_interval
from services.evaluation.statistics.power import FEWEST_CLUSTERS

Method = Literal["wilson", "bootstrap", "exact", "none"]


@dataclass(frozen=True)
class MeanInterval:
    """A mean over examples with its 95 % limits.

    method: `wilson` for a share of right answers (it takes examples as independent; comparisons do not);
    `bootstrap`: bias-corrected over whole clusters; `exact`: all clusters alike and the score bounded;
    `none`: all clusters alike and the score unbounded, so that no limit can be given and both are the mean.
    """

    mean: float
    low: float
    high: float
    method: Method


def proportion_interval(successes: int, examples: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson, JASA 22, 1927). Raises BadSample without examples."""
    if not 0 <= successes <= examples or examples < 1:
        raise BadSample(f"{successes} of {examples} is not a share: count at least one example")
    interval = stats.binomtest(successes, examples).proportion_ci(confidence_level=level, method="wilson")
    # rounding can leave a limit a hair beyond the share itself at 0 and 1
    return max(0.0, min(float(interval.low), successes / examples)), min(
        1.0, max(float(interval.high), successes / examples)
    )


def mean_interval(
    values: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    proportion: bool,
    seed: int,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    resamples: int = 10_000,
) -> MeanInterval:
    """The mean over examples with a 95 % interval: Wilson's for 0/1 scores, else the clustered bootstrap.

    values: (N,) scores; clusters: N source documents; bounds: of the score, None if unbounded. Raises BadSample.
    """
    grouped = group_by_cluster(values, clusters)
    if proportion:
        return _wilson(np.asarray(values, dtype=np.float64))
    if grouped.all_alike:
        low, high = (grouped.mean,) * 2
        if bounds is not None:
            low, high = all_alike_interval(grouped.mean, grouped.count, 0.95, bounds)
        return MeanInterval(grouped.mean, low, high, "none" if bounds is None else "exact")
    [(low, high)] = bootstrap_intervals(grouped, [0.95], bounds, resamples, np.random.default_rng(seed))
    return MeanInterval(grouped.mean, low, high, "bootstrap")


def bootstrap_intervals(
    grouped: ClusterSums,
    levels: Sequence[float],
    bounds: tuple[float, float] | None,
    resamples: int,
    rng: np.random.Generator,
) -> list[tuple[float, float]]:
    """The bootstrap interval of one mean at each level. Clusters must not be all alike.

    Below six clusters even a unanimous sign test cannot reject, and resampling two or three documents knows only
    those: there a bounded score's interval is widened to what as many alike documents would leave open.
    """
    limits = bootstrap_limits(grouped.sums[:, None], grouped.sizes, levels, resamples, rng)
    intervals = [(float(low[0]), float(high[0])) for low, high in limits]
    if bounds is None or grouped.count >= FEWEST_CLUSTERS:
        return intervals
    widest = [all_alike_interval(grouped.mean, grouped.count, level, bounds) for level in levels]
    return [(min(low, w[0]), max(high, w[1])) for (low, high), w in zip(intervals, widest, strict=True)]


def _wilson(values: Floats) -> MeanInterval:
    if not np.isin(values, (0.0, 1.0)).all():
        raise BadSample("a share needs scores of 0 and 1 only: use proportion=False for graded scores")
    low, high = proportion_interval(int(values.sum()), len(values))
    return MeanInterval(float(values.mean()), low, high, "wilson")
