"""Exact limits for a sample in which every cluster says the same, where a bootstrap can only repeat it.

If all K documents show the difference c, the documents that would show something else are at most a share q of
all documents, with (1 - q)^K = 1 - level: the Clopper-Pearson bound for zero cases in K, about 3 / K at 95 %
(the "rule of three", Hanley & Lippman-Hand, JAMA 249, 1983). Those unseen documents could be anywhere within the
score's bounds, so the mean lies within c - q (c - lowest) and c + q (highest - c). One tail carries the whole
error, because a single event, that such a document exists unseen, makes either limit wrong.
"""


def unseen_share(clusters: int, level: float) -> float:
    """The largest share of clusters that may differ although none of `clusters` did, at this confidence."""
    return float(1 - (1 - level) ** (1 / clusters))


def all_alike_interval(value: float, clusters: int, level: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """Limits for a mean of which every one of `clusters` clusters showed `value`, scores lying within `bounds`."""
    share = unseen_share(clusters, level)
    lowest, highest = bounds
    return value - share * (value - lowest), value + share * (highest - value)
