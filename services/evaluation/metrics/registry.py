"""The answer metrics by name: what each is called, measures and how it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.evaluation.metrics.chrf import chrf
from services.evaluation.metrics.exact_match import exact_match
from services.evaluation.metrics.length import length
from services.evaluation.metrics.repetition import repetition
from services.evaluation.metrics.rouge_l import rouge_l
from services.evaluation.metrics.token_f1 import token_f1


@dataclass(frozen=True)
class Metric:
    """One deterministic metric of an answer."""

    name: str
    title: str
    score: Callable[[str, str], float]  # (reference, answer)
    share: bool = True  # lies in 0..1
    binary: bool = False  # is 0 or 1, so that its mean is a proportion
    more_is_better: bool | None = True  # None: neither, it only describes
    meaning: str = ""


_ALL = (
    Metric(
        "exact_match",
        "exact match",
        exact_match,
        binary=True,
        meaning="answers equal to the reference, after normalising",
    ),
    Metric("token_f1", "token F1", token_f1, meaning="words shared with the reference"),
    Metric("rouge_l", "ROUGE-L", rouge_l, meaning="words shared with the reference in the same order"),
    Metric("chrf", "chrF", chrf, meaning="character sequences shared with the reference"),
    Metric(
        "repetition",
        "repetition",
        lambda _reference, answer: repetition(answer),
        more_is_better=False,
        meaning="word pairs that the answer has said before",
    ),
    Metric(
        "length",
        "length",
        lambda _reference, answer: length(answer),
        share=False,
        more_is_better=None,
        meaning="words per answer",
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}


def score_answer(reference: str, answer: str) -> dict[str, float]:
    """Every metric of one answer by name; all finite, all but `length` within 0..1."""
    return {metric.name: metric.score(reference, answer) for metric in METRICS.values()}
