"""The smallest true difference that a test set of this size and noise would most likely have shown."""

from __future__ import annotations

import math

from scipy import stats

from .clusters import ClusterSums


def standard_error(differences: ClusterSums) -> float:
    """Of a ratio-of-sums mean over clusters (linearised, divisor K - 1). Needs at least two clusters."""
    residuals = differences.sums - differences.mean * differences.sizes
    clusters = differences.count
    scale = math.sqrt(clusters / (clusters - 1))
    return float(scale * math.sqrt(float((residuals**2).sum())) / differences.sizes.sum())


def smallest_visible_difference(
    differences: ClusterSums, *, largest: float = 1.0, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """Minimal detectable effect of a two-sided test at `alpha` with `power`; None if no difference could show.

    Usually (t(1 - alpha/2) + t(power)) standard errors with K - 1 degrees of freedom. Where all clusters are
    alike there is no noise to go by: then it is the share of documents that would have to move by `largest` so
    that enough of them (six at 5 %: 2 / 2^6) land in the sample for the sign-flip test to reject.
    """
    clusters = differences.count
    fewest = math.ceil(1 - math.log2(alpha))
    if clusters < fewest:
        return None
    if differences.all_alike:
        return float(stats.beta.ppf(power, fewest, clusters - fewest + 1)) * largest
    quantiles = stats.t.ppf([1 - alpha / 2, power], clusters - 1).sum()
    visible = float(quantiles) * standard_error(differences)
    return visible if visible <= largest else None
