"""The bias-corrected and accelerated bootstrap (BCa) over whole clusters.

Method: Efron, "Better Bootstrap Confidence Intervals", JASA 82 (1987); whole clusters are resampled
(Davison & Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8), the statistic is the ratio
of the resampled sums to the resampled sizes, and the acceleration comes from leaving out one cluster at a time.

Plain BCa fell to 92 % coverage at 40 clusters in our simulations, for two reasons that are undone here:

- It is too narrow with few clusters: its spread has the divisor K instead of K - 1, and it reads normal instead
  of Student quantiles. `expanded_quantile` undoes both (Hesterberg, "What Teachers Should Know About the
  Bootstrap", The American Statistician 69, 2015, section 5.3).
- The acceleration is an estimated skewness. Where few answers differ (three wins, no loss) it is mostly chance,
  yet it pulls the limit past zero. `acceleration` therefore shrinks it by how well it is known.

Every array has a last axis of E experiments, so one call serves one comparison (E = 1) and the simulations
of thousands alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special, stats

from services.evaluation.statistics.clusters import SAME, Floats

# A block of this many resampled counts keeps the working memory near 32 MB.
_BLOCK = 4_000_000


def bootstrap_limits(
    sums: Floats, sizes: Floats, levels: Sequence[float], resamples: int, rng: np.random.Generator
) -> list[tuple[Floats, Floats]]:
    """The clustered, expanded BCa interval of each experiment's mean at each level, from one set of draws.

    sums: (K, E) cluster sums; sizes: (K,) examples per cluster; K at least 2.
    Returns a (low, high) per level, each (E,).
    """
    estimate = sums.sum(axis=0) / sizes.sum()
    draws = np.sort(resampled_means(sums, sizes, resamples, rng), axis=0)  # (B, E)
    accelerated = acceleration(jackknife_means(sums, sizes))
    return [bca_interval(estimate, draws, accelerated, expanded_quantile(level, len(sizes))) for level in levels]


def resampled_means(sums: Floats, sizes: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Means of `resamples` draws of K clusters with replacement.

    sums: (K, E) cluster sums; sizes: (K,) examples per cluster. Returns (resamples, E).
    """
    clusters = len(sizes)
    rows = max(1, _BLOCK // clusters)
    blocks = [_draw(sums, sizes, min(rows, resamples - start), rng) for start in range(0, resamples, rows)]
    return np.concatenate(blocks)


def _draw(sums: Floats, sizes: Floats, rows: int, rng: np.random.Generator) -> Floats:
    clusters = len(sizes)
    picks = rng.integers(0, clusters, size=(rows, clusters))  # (rows, K)
    picks += np.arange(rows)[:, None] * clusters
    counts = np.bincount(picks.ravel(), minlength=rows * clusters).reshape(rows, clusters).astype(np.float64)
    means: Floats = (counts @ sums) / (counts @ sizes)[:, None]
    return means


def expanded_quantile(level: float, clusters: int) -> float:
    """The normal quantile to read so that an interval over K clusters covers as often as `level` says."""
    return float(stats.t.ppf((1 + level) / 2, clusters - 1) * np.sqrt(clusters / (clusters - 1)))


def bca_interval(estimate: Floats, draws: Floats, accelerated: Floats, quantile: float) -> tuple[Floats, Floats]:
    """BCa limits at -quantile and +quantile of the normal distribution (1.96 for a plain 95 % interval).

    estimate: (E,); draws: (B, E) bootstrap means, sorted along the first axis; accelerated: (E,) accelerations.
    Returns (low, high), each (E,). A column whose draws are all the same returns that value twice.
    """
    bias = _bias(estimate, draws)
    low, high = (_quantile(draws, _adjusted(z, bias, accelerated)) for z in (-quantile, quantile))
    return low, high


def jackknife_means(sums: Floats, sizes: Floats) -> Floats:
    """The mean without each cluster in turn. sums: (K, E), sizes: (K,). Returns (K, E); K must be at least 2."""
    means: Floats = (sums.sum(axis=0) - sums) / (sizes.sum() - sizes)[:, None]
    return means


def acceleration(left_out: Floats, *, shrink: bool = True) -> Floats:
    """Efron's acceleration from the jackknife means. left_out: (K, E). Returns (E,).

    With `shrink`, an estimate a with sampling variance V (under a symmetric population) is multiplied by
    1 - 2 V / a^2, or 0 where that is negative: a positive-part Stein shrinkage. It vanishes with the number of
    clusters, so the interval keeps BCa's second-order accuracy. The factor 2 was picked among 0, 1, 2 and 4 by
    simulated coverage. It ends the undercoverage where few answers differ and costs up to 2.6 points of it
    outside rates of 0.2 to 0.8 (one arm near 0, the other at 0.05), where the skewness is real.
    """
    deviation = left_out.mean(axis=0) - left_out  # (K, E)
    spread = (deviation**2).sum(axis=0)
    skew = (deviation**3).sum(axis=0)
    skewed = (spread > 0) & (skew != 0)
    plain = np.where(skewed, skew / (6 * np.where(skewed, spread, 1.0) ** 1.5), 0.0)
    if not shrink:
        return plain
    noise = (deviation**6).sum(axis=0) / np.where(skewed, skew, 1.0) ** 2  # V / a^2
    shrunk: Floats = plain * np.clip(1 - 2 * noise, 0, 1)
    return shrunk


def _bias(estimate: Floats, draws: Floats) -> Floats:
    """z0: how far the estimate lies from the middle of its draws, ties counted as half (scores are discrete)."""
    below = (draws < estimate - SAME).mean(axis=0)
    above = (draws > estimate + SAME).mean(axis=0)
    # one imagined draw on either side keeps the share off 0 and 1, where z0 is infinite
    share = ((1 + below - above) / 2).clip(0.5 / len(draws), 1 - 0.5 / len(draws))
    bias: Floats = special.ndtri(share)
    return bias


def _adjusted(z: float, bias: Floats, accelerated: Floats) -> Floats:
    """The share of draws to read for the normal quantile z: Phi(z0 + (z0 + z) / (1 - a (z0 + z)))."""
    shifted = bias + z
    # past a * shift = 1 the transformation has its pole: the limit is the end of the distribution
    room = np.maximum(1 - accelerated * shifted, 1e-6)
    share: Floats = special.ndtr(bias + shifted / room)
    return share


def _quantile(draws: Floats, share: Floats) -> Floats:
    """Linear interpolation between order statistics (Hyndman & Fan's type 7), a share of its own per column."""
    position = share * (len(draws) - 1)
    below = np.floor(position).astype(np.intp)
    above = np.minimum(below + 1, len(draws) - 1)
    columns = np.arange(draws.shape[1])
    lower, upper = draws[below, columns], draws[above, columns]
    value: Floats = lower + (position - below) * (upper - lower)
    return value
