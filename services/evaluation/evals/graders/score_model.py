"""A model gives the answer a number."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from services.evaluation.errors import UnreadableJudgement
from services.evaluation.evals.domain import Grade, error_record
from services.evaluation.evals.graders.judging import Judge
from services.evaluation.evals.samples import asked_and_said, usage_of
from services.evaluation.evals.schemas import JudgeSampling, ScoreModel

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w]|\.\d)")
_KEYS = ("result", "score")
_MOST_TOKENS = 16
"""More digits than any verdict needs."""


class ScoreModelGrader:
    """Asks for a number within the range; what is no such number is an error of this grade, never a guess."""

    def __init__(self, criterion: ScoreModel) -> None:
        self._low, self._high = criterion.range
        self._threshold = criterion.pass_threshold if criterion.pass_threshold is not None else self._high
        order = f"Answer with one number from {self._low:g} to {self._high:g} and nothing else."
        self._judge = Judge(criterion, criterion.sampling_params or JudgeSampling(), order, most_tokens=_MOST_TOKENS)

    def body(self, scope: Mapping[str, Any]) -> dict[str, Any]:
        """The live request; raises MissingVariable."""
        return self._judge.body(scope, {"type": "number", "minimum": self._low, "maximum": self._high})

    def grade(self, body: Mapping[str, Any], said: Mapping[str, Any]) -> Grade:
        """The grade by what the model said."""
        sample, usage = asked_and_said(body, said), usage_of(said)
        try:
            score = read_score(said["text"], self._low, self._high)
        except UnreadableJudgement as error:
            return Grade(error=error_record(error), sample=sample, usage=usage)
        return Grade(passed=score >= self._threshold, score=score, sample=sample, usage=usage)


def read_score(text: str, low: float, high: float) -> float:
    """The number that a text gives: it is one, it is JSON with one under `result` or `score`, or it holds just one.

    Raises UnreadableJudgement for no number, several different ones, or one out of range.
    """
    found = _numbers(text)
    if len(found) != 1:
        what = "no number" if not found else f"{len(found)} different numbers"
        raise UnreadableJudgement(f"The grading model said {what}: {text[:200]!r}")
    (score,) = found
    if not low <= score <= high:
        raise UnreadableJudgement(f"The grading model said {score:g}, which is not within {low:g} to {high:g}.")
    return score


def _numbers(text: str) -> set[float]:
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    if isinstance(said, dict):
        said = next((said[key] for key in _KEYS if key in said), None)
    if isinstance(said, (int, float)) and not isinstance(said, bool) and math.isfinite(said):
        return {float(said)}
    return {float(number) for number in _NUMBER.findall(text)}
