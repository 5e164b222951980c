"""Which examples belong together: those of one source document and those that ask nearly the same."""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

from services.data.domain import Example
from services.data.duplicates import NearPair, exact_key
from services.data.normalise import comparison_key


def cluster_names(examples: Sequence[Example], near: Iterable[NearPair]) -> list[str]:
    """A cluster name per example: the least document name of its group, or a hash of what the group asks.

    Examples are joined that share a gold document, ask the same question, or are a near pair; joining is transitive.
    Names depend on content alone, so that they are the same whatever the order of the file.
    """
    forest = _Forest(len(examples))
    owner: dict[Hashable, int] = {}
    for number, example in enumerate(examples):
        keys: list[Hashable] = [("document", name) for name in example.documents]
        keys.append(("question", comparison_key(example.question) or example.question))
        for key in keys:
            forest.join(number, owner.setdefault(key, number))
    for pair in near:
        forest.join(pair.first, pair.second)
    members: dict[int, list[int]] = defaultdict(list)
    for number in range(len(examples)):
        members[forest.root(number)].append(number)
    names = {root: _name([examples[number] for number in group]) for root, group in members.items()}
    return [names[forest.root(number)] for number in range(len(examples))]


def content_hash(example: Example) -> str:
    """Identifies what an example says, whatever file it came in (sha256, hex)."""
    return hashlib.sha256("\x1f".join(exact_key(example)).encode()).hexdigest()


def _name(group: Sequence[Example]) -> str:
    documents = sorted(name for example in group for name in example.documents)
    if documents:
        return documents[0]
    return f"question:{min(content_hash(example) for example in group)[:16]}"


class _Forest:
    """Disjoint sets with path halving."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self.root(one), self.root(other)))
        self._parent[high] = low
