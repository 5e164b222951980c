"""The smallest true difference that a test set of this size and noise would most likely have shown."""

from __future__ import annotations

import math

from scipy import stats

from services.evaluation.statistics.clusters import ClusterSums

ALPHA = 0.05
# with fewer clusters even unanimous signs happen by chance more often than alpha: 2 / 2^5 = 6.25 %
FEWEST_CLUSTERS = math.ceil(1 - math.log2(ALPHA))


def standard_error(differences: ClusterSums) -> float:
    """Of a ratio-of-sums mean over clusters (linearised, divisor K - 1). Needs at least two clusters."""
    residuals = differences.sums - differences.mean * differences.sizes
    clusters = differences.count
    scale = math.sqrt(clusters / (clusters - 1))
    return float(scale * math.sqrt(float((residuals**2).sum())) / differences.sizes.sum())


def smallest_visible_difference(differences: ClusterSums, *, largest: float = 1.0, power: float = 0.8) -> float | None:
    """Minimal detectable effect of a two-sided test at 5 % with `power`; None if no difference could show.

    Usually (t(0.975) + t(power)) standard errors with K - 1 degrees of freedom. Where all clusters are
    alike there is no noise to go by: then it is the share of documents that would have to move by `largest` so
    that enough of them (six at 5 %: 2 / 2^6) land in the sample for the sign-flip test to reject.
    """
    clusters = differences.count
    if clusters < FEWEST_CLUSTERS:
        return None
    if differences.all_alike:
        return float(stats.beta.ppf(power, FEWEST_CLUSTERS, clusters - FEWEST_CLUSTERS + 1)) * largest
    quantiles = stats.t.ppf([1 - ALPHA / 2, power], clusters - 1).sum()
    visible = float(quantiles) * standard_error(differences)
    return visible if visible <= largest else None
