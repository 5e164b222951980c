"""Reciprocal rank fusion of search legs (Cormack, Clarke and Büttcher, SIGIR 2009)."""

from collections.abc import Sequence

RANK_CONSTANT = 60


def fuse(legs: Sequence[Sequence[str]], *, constant: int = RANK_CONSTANT) -> list[tuple[str, float]]:
    """Ids with their fused scores, best first: the sum over legs of 1 / (constant + rank), rank from 1.

    Equal scores are ordered by id, so that the same query always answers the same.
    """
    scores: dict[str, float] = {}
    for leg in legs:
        for rank, found in enumerate(leg, start=1):
            scores[found] = scores.get(found, 0.0) + 1.0 / (constant + rank)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))
