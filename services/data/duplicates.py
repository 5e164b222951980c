"""Finding examples that are the same: exactly, by key, and nearly, by MinHash over word shingles (Broder, 1997)."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from datasketch import MinHash, MinHashLSH

from services.data.domain import Example
from services.data.normalise import answer_key, comparison_key, words

_PERMUTATIONS = 64
_CANDIDATE = 0.5
"""Estimated Jaccard similarity of shingles from which a pair is looked at."""
_WEIGHTED = 0.8
_PLAIN = 0.7
_FREQUENT_SHARE, _FREQUENT_LEAST = 0.05, 20
_FREQUENT_WEIGHT = 0.1
_BATCH = 1000
_NAMES_A_THING = re.compile(r"[\d_]")
Beat = Callable[[], None]
"""Called between batches, so that a long search can be interrupted."""


@dataclass(frozen=True)
class Repeat:
    """An example that was left out, since an earlier one says the same."""

    line: int
    same_as: int


@dataclass(frozen=True)
class NearPair:
    """Two examples (by index, first < second) whose questions ask nearly the same."""

    first: int
    second: int
    same_answer: bool


def exact_key(example: Example) -> tuple[str, str]:
    """Equal keys mean: the same conversation and the same answer."""
    turns = "\n".join(f"{turn.role} {comparison_key(turn.content) or turn.content}" for turn in example.messages)
    return turns, answer_key(example.answer)


def drop_exact(examples: Sequence[Example]) -> tuple[list[Example], list[Repeat]]:
    """Keep the first of equal examples; it inherits the gold documents of those that are left out."""
    kept: dict[tuple[str, str], Example] = {}
    repeats: list[Repeat] = []
    for example in examples:
        key = exact_key(example)
        first = kept.setdefault(key, example)
        if first is not example:
            repeats.append(Repeat(line=example.line, same_as=first.line))
            documents = tuple(dict.fromkeys(first.documents + example.documents))
            kept[key] = replace(first, documents=documents)
    return list(kept.values()), repeats


def near_pairs(examples: Sequence[Example], beat: Beat = lambda: None) -> list[NearPair]:
    """Pairs whose questions are rewordings of each other.

    Questions made from a template differ in one name only, and that name is the whole difference, so the measure
    weighs words by how rare they are in this dataset: words of the template count a tenth. Three more guards: the
    plain word overlap must be high too, words with a digit or an underscore (numbers, identifiers) must be the same
    on both sides, and questions whose gold documents have nothing in common are different unless word for word equal.
    """
    if not examples:
        return []
    bags = [words(example.question) for example in examples]
    scale = _Rarity(bags)
    judged = (pair for pair in _candidates(bags, scale, beat) if _alike(examples, bags, scale, *pair))
    return [
        NearPair(i, j, same_answer=answer_key(examples[i].answer) == answer_key(examples[j].answer)) for i, j in judged
    ]


class _Rarity:
    """How much a word tells: its smoothed inverse document frequency, a tenth of that for words frequent here."""

    def __init__(self, bags: Sequence[Sequence[str]]) -> None:
        self._count = len(bags)
        self._seen = Counter(word for bag in bags for word in set(bag))
        self._frequent = max(_FREQUENT_LEAST, _FREQUENT_SHARE * len(bags))

    def is_frequent(self, word: str) -> bool:
        return self._seen[word] > self._frequent

    def weight(self, word: str) -> float:
        informative = math.log(1 + self._count / self._seen[word])
        return informative * (_FREQUENT_WEIGHT if self.is_frequent(word) else 1.0)


def _shingles(bag: Sequence[str], scale: _Rarity) -> set[bytes]:
    """Words and word pairs that hold a telling word; all of them when none does.

    Leaving the template out keeps a thousand questions of one template from being half a million candidate pairs.
    """
    rare = [not scale.is_frequent(word) for word in bag]
    if not any(rare):
        return {" ".join(bag).encode()}
    single = {word.encode() for word, telling in zip(bag, rare, strict=True) if telling}
    return single | {f"{bag[i]} {bag[i + 1]}".encode() for i in range(len(bag) - 1) if rare[i] or rare[i + 1]}


def _candidates(bags: Sequence[Sequence[str]], scale: _Rarity, beat: Beat) -> Iterator[tuple[int, int]]:
    index = MinHashLSH(threshold=_CANDIDATE, num_perm=_PERMUTATIONS)
    for begin in range(0, len(bags), _BATCH):
        beat()
        batch = [_shingles(bag, scale) for bag in bags[begin : begin + _BATCH]]
        for number, signature in enumerate(MinHash.bulk(batch, num_perm=_PERMUTATIONS), start=begin):
            yield from ((earlier, number) for earlier in sorted(index.query(signature)))
            index.insert(number, signature)


def _alike(examples: Sequence[Example], bags: Sequence[Sequence[str]], scale: _Rarity, first: int, second: int) -> bool:
    if bags[first] == bags[second]:
        return True
    one, other = examples[first].documents, examples[second].documents
    if one and other and not set(one) & set(other):
        return False
    a, b = set(bags[first]), set(bags[second])
    if any(_NAMES_A_THING.search(word) for word in a ^ b):
        return False
    if len(a & b) < _PLAIN * len(a | b):
        return False
    shared, together = (sum(map(scale.weight, sorted(bag))) for bag in (a & b, a | b))
    return shared >= _WEIGHTED * together
