"""How well a ranking finds the gold documents.

A document's first place counts; later passages of the same document are neither found again nor held against it.
Binary relevance throughout (Järvelin & Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2


def recall_at_k(gold: Sequence[str], ranked: Sequence[str], k: int) -> float:
    """The share of distinct gold documents among the first k places, 0..1."""
    return len(set(gold) & set(ranked[:k])) / len(set(gold))


def mrr(gold: Sequence[str], ranked: Sequence[str], k: int) -> float:
    """One over the place of the first gold document among the first k; 0 when there is none."""
    return next((1 / place for place, key in enumerate(ranked[:k], start=1) if key in gold), 0.0)


def ndcg(gold: Sequence[str], ranked: Sequence[str], k: int) -> float:
    """Discounted gain of the first k places over that of a perfect ranking, 0..1."""
    first_places = {key: place for place, key in reversed(list(enumerate(ranked[:k], start=1)))}
    gain = sum(1 / log2(first_places[key] + 1) for key in set(gold) if key in first_places)
    ideal = sum(1 / log2(place + 1) for place in range(1, min(k, len(set(gold))) + 1))
    return gain / ideal


def score_retrieval(gold: Sequence[str], ranked: Sequence[str], k: int) -> dict[str, float]:
    """`recall_at_k`, `mrr` and `ndcg` of one ranking (document keys, best first), over its first k places.

    Without gold documents nothing can be measured and the result is empty. Raises ValueError when k < 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}: at least one place of the ranking must count")
    if not gold:
        return {}
    return {"recall_at_k": recall_at_k(gold, ranked, k), "mrr": mrr(gold, ranked, k), "ndcg": ndcg(gold, ranked, k)}
