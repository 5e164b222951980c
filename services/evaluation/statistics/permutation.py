"""The paired permutation test: were the two arms' labels swapped, how often would the difference be this large?

Under the null hypothesis the two answers to a question are exchangeable. Questions of one document are only
exchangeable together, so signs are flipped per cluster (Good, "Permutation, Parametric, and Bootstrap Tests of
Hypotheses", 2005, chapter 3). The test is exact wherever all flips can be counted.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np
from scipy import stats

from services.evaluation.statistics.clusters import SAME, Floats

Method = Literal["exact", "monte carlo"]

_ENUMERABLE = 16  # 2^15 sign patterns (the other half mirrors them)
_LONGEST_LATTICE = 20_000
_BLOCK = 4_000_000


def sign_flip_p_value(sums: Floats, resamples: int, rng: np.random.Generator) -> tuple[float, Method]:
    """Two-sided p-value of the sum of cluster differences under random signs, and how it was found.

    sums: (K,) sums of treated minus baseline. Whole-number sums (0/1 scores) are convolved exactly for any K;
    others are enumerated up to 16 clusters that differ, else drawn: (b + 1) / (m + 1) with m = `resamples`
    (Phipson & Smyth, "Permutation P-values Should Never Be Zero", 2010).
    """
    sizes = np.abs(sums[np.abs(sums) > SAME])
    observed = abs(float(sums.sum())) - SAME
    if observed <= 0:
        return 1.0, "exact"
    whole = np.round(sizes)
    if np.abs(sizes - whole).max() <= SAME and whole.sum() <= _LONGEST_LATTICE:
        return _convolved(whole.astype(np.intp), observed), "exact"
    if len(sizes) <= _ENUMERABLE:
        return _enumerated(sizes, observed), "exact"
    return _drawn(sizes, observed, resamples, rng), "monte carlo"


def _convolved(sizes: np.ndarray[tuple[int, ...], np.dtype[np.intp]], observed: float) -> float:
    """The full distribution: m clusters of size s give s times a shifted binomial; sizes convolve."""
    chances = np.ones(1)
    for size, count in Counter(sizes.tolist()).items():
        steps = np.zeros(2 * size * count + 1)
        steps[:: 2 * size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, steps)
    reach = len(chances) // 2
    totals = np.arange(-reach, reach + 1)
    return min(1.0, float(chances[np.abs(totals) >= observed].sum()))


def _enumerated(sizes: Floats, observed: float) -> float:
    totals = sizes[:1]
    for size in sizes[1:]:
        totals = np.concatenate([totals + size, totals - size])
    return float((np.abs(totals) >= observed).mean())


def _drawn(sizes: Floats, observed: float, resamples: int, rng: np.random.Generator) -> float:
    rows = max(1, _BLOCK // len(sizes))
    extreme = 0
    for start in range(0, resamples, rows):
        signs = rng.integers(0, 2, size=(min(rows, resamples - start), len(sizes)), dtype=np.int8) * 2.0 - 1
        extreme += int((np.abs(signs @ sizes) >= observed).sum())
    return (extreme + 1) / (resamples + 1)
