"""How alike two texts are, 0..1: by a metric that OpenAI has, by one of our evaluations, or by vectors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from services.evaluation.evals import templates
from services.evaluation.evals.domain import Grade, Usage
from services.evaluation.evals.schemas import TextSimilarity
from services.evaluation.metrics.bleu import bleu
from services.evaluation.metrics.chrf import chrf
from services.evaluation.metrics.exact_match import exact_match
from services.evaluation.metrics.fuzzy_match import fuzzy_match
from services.evaluation.metrics.gleu import gleu
from services.evaluation.metrics.meteor import meteor
from services.evaluation.metrics.rouge_l import rouge_l
from services.evaluation.metrics.rouge_n import rouge_n
from services.evaluation.metrics.token_f1 import token_f1


def _rouge(n: int) -> Callable[[str, str], float]:
    return lambda reference, answer: rouge_n(reference, answer, n)


METRICS: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    "meteor": meteor,
    **{f"rouge_{n}": _rouge(n) for n in range(1, 6)},
    "rouge_l": rouge_l,
    "exact_match": exact_match,
    "token_f1": token_f1,
    "chrf": chrf,
}
"""(reference, answer) → 0..1"""


class TextSimilarityGrader:
    """Grades by a metric of words or characters."""

    def __init__(self, criterion: TextSimilarity) -> None:
        self._score, self._threshold = METRICS[criterion.evaluation_metric], criterion.pass_threshold
        self._input, self._reference = templates.parse(criterion.input), templates.parse(criterion.reference)

    def grade(self, scope: Mapping[str, Any]) -> Grade:
        """The row's grade; raises MissingVariable."""
        score = self._score(self._reference.render(scope), self._input.render(scope))
        return Grade(passed=score >= self._threshold, score=score)


class CosineGrader:
    """Grades by the cosine of the two texts' vectors, as our embedder makes them; opposite texts score 0."""

    def __init__(self, criterion: TextSimilarity) -> None:
        self._threshold = criterion.pass_threshold
        self._input, self._reference = templates.parse(criterion.input), templates.parse(criterion.reference)

    def texts(self, scope: Mapping[str, Any]) -> list[str]:
        """What has to be embedded; raises MissingVariable."""
        return [self._input.render(scope), self._reference.render(scope)]

    def grade(self, vectors: Sequence[Sequence[float]], usage: Usage) -> Grade:
        """The grade by the two unit vectors of `texts`."""
        product = sum(one * other for one, other in zip(*vectors, strict=True))
        # unit vectors of 32 bits leave their bounds by a rounding error
        score = min(1.0, max(0.0, product))
        return Grade(passed=score >= self._threshold, score=score, usage=usage)
