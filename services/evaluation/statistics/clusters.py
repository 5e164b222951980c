"""Groups per-example values by the document they came from, because documents are what we sampled."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Sums of the same values in another order differ in the last bits; below this they are the same value.
SAME = 1e-9


class BadSample(ValueError):
    """The values cannot be analysed: empty, of unequal lengths or not finite."""


@dataclass(frozen=True)
class ClusterSums:
    """K clusters as sums and sizes: all that a mean over examples needs, resampled or not."""

    sums: Floats  # (K,)
    sizes: Floats  # (K,)

    @property
    def count(self) -> int:
        return len(self.sizes)

    @property
    def mean(self) -> float:
        """The mean over examples (ratio of sums): a document with three questions weighs three."""
        return float(self.sums.sum() / self.sizes.sum())

    @property
    def all_alike(self) -> bool:
        """Whether every cluster has the same mean, so that resampling clusters can change nothing."""
        means = self.sums / self.sizes
        return bool(np.ptp(means) <= SAME)


def group_by_cluster(values: ArrayLike, clusters: Sequence[Hashable]) -> ClusterSums:
    """Sums and sizes per cluster, ordered by cluster name so that the order of examples cannot matter.

    values: (N,) finite numbers; clusters: N names. Raises BadSample.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or numbers.size == 0:
        raise BadSample(f"expected a non-empty list of values, got the shape {numbers.shape}")
    if len(clusters) != numbers.size:
        raise BadSample(f"{numbers.size} values but {len(clusters)} cluster names: every value needs one")
    if not np.isfinite(numbers).all():
        where = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise BadSample(f"value {where} is {numbers[where]}: score every example with a finite number first")
    _, member = np.unique(np.asarray([str(name) for name in clusters]), return_inverse=True)
    sums = np.bincount(member, weights=numbers).astype(np.float64)
    return ClusterSums(sums=sums, sizes=np.bincount(member).astype(np.float64))
