"""Does anything of one split stand in another? A check of the finished splits, independent of how they were made."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from services.data.domain import Placed
from services.data.duplicates import NearPair
from services.data.normalise import comparison_key


def leakage(placed: Sequence[Placed], near: Iterable[NearPair]) -> dict[str, Any]:
    """How many documents, questions, clusters and near pairs lie in more than one split; `clean` when none does.

    `near` are index pairs into `placed`.
    """
    found: dict[str, Any] = {
        "documents": _straddling(placed, lambda one: one.example.documents),
        "questions": _straddling(placed, lambda one: [comparison_key(one.example.question) or one.example.question]),
        "clusters": _straddling(placed, lambda one: [one.cluster]),
        "near_duplicates": sum(placed[pair.first].split != placed[pair.second].split for pair in near),
    }
    return found | {"clean": not any(found.values())}


def _straddling(placed: Sequence[Placed], keys: Callable[[Placed], Iterable[Hashable]]) -> int:
    seen: dict[Hashable, set[str]] = defaultdict(set)
    for one in placed:
        for key in keys(one):
            seen[key].add(one.split)
    return sum(len(splits) > 1 for splits in seen.values())
