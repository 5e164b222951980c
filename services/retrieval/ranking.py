"""Scoring passages by their words (BM25) and by their meaning (cosine), and blending the two scores.

Blending scores instead of ranks follows Bruch, Gai and Ingber (TOIS 2023): ranks forget by how much the best was best,
and a rare identifier that one passage alone has should win by much. docs/lab-notebook.md has our own figures.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_SATURATION = 1.2
_LENGTH = 0.75
"""Robertson and Zaragoza's usual k1 and b (The Probabilistic Relevance Framework, 2009)."""

_TITLE = 2.0
"""More than one mention earns (1.7 in the shortest text), less than many do (2.2)."""


@dataclass(frozen=True)
class Collection:
    """What a store's words are worth: its passages, their mean tokens, and how many passages have each word."""

    passages: int
    mean_tokens: float
    frequency: Mapping[str, int]

    def worth(self, word: str) -> float:
        """The word's inverse document frequency (Robertson and Spärck Jones), never negative."""
        having = self.frequency.get(word, 0)
        return math.log(1 + (self.passages - having + 0.5) / (having + 0.5))


@dataclass(frozen=True)
class Candidate:
    """A passage that a leg found. `similarity` is the cosine to the query; `times` counts query words in its text."""

    id: str
    tokens: int
    similarity: float = 0.0
    times: Mapping[str, int] = field(default_factory=dict)
    titled: frozenset[str] = frozenset()

    def has(self, word: str) -> bool:
        return word in self.titled or self.times.get(word, 0) > 0


def rank(
    candidates: Sequence[Candidate], words: Sequence[str], collection: Collection, mode: str
) -> list[tuple[str, float]]:
    """Ids with scores from 0 (or, for vectors alone, -1) to 1, best first; equal scores are ordered by id.

    "dense" scores by cosine, "text" by words, "hybrid" by the mean of both. The score by words is BM25 over the best
    passage's, times the share of the query's worth that any passage has: where words say little, meaning decides.
    """
    if mode == "dense":
        scores = {one.id: one.similarity for one in candidates}
    else:
        by_words = _by_words(candidates, words, collection)
        scores = {one.id: by_words[one.id] for one in candidates}
        if mode == "hybrid":
            scores = {one.id: (scores[one.id] + min(max(one.similarity, 0.0), 1.0)) / 2 for one in candidates}
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def best_of_each(results: Sequence[Sequence[dict[str, Any]]], most: int) -> list[dict[str, Any]]:
    """The results of several queries as one list, best first: a passage that several found keeps its best score."""
    best: dict[str, dict[str, Any]] = {}
    for result in (result for found in results for result in found):
        if result["id"] not in best or best[result["id"]]["score"] < result["score"]:
            best[result["id"]] = result
    return sorted(best.values(), key=lambda result: (-result["score"], result["id"]))[:most]


def _by_words(candidates: Sequence[Candidate], words: Sequence[str], collection: Collection) -> dict[str, float]:
    worth = {word: collection.worth(word) for word in words}
    raw = {one.id: sum(worth[word] * _weight(one, word, collection) for word in words) for one in candidates}
    best = max(raw.values(), default=0.0)
    if best == 0.0:
        return dict.fromkeys(raw, 0.0)
    covered = max(sum(worth[word] for word in words if one.has(word)) for one in candidates)
    share = covered / sum(worth.values())
    return {found: score / best * share for found, score in raw.items()}


def _weight(one: Candidate, word: str, collection: Collection) -> float:
    """BM25's saturating count in the text, and the title's own: a document about a word beats a mention."""
    times = one.times.get(word, 0)
    relative = one.tokens / collection.mean_tokens if collection.mean_tokens else 1.0
    counted = times * (_SATURATION + 1) / (times + _SATURATION * (1 - _LENGTH + _LENGTH * relative))
    return counted + (_TITLE if word in one.titled else 0.0)
