"""A model chooses one of some labels for the answer."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from services.evaluation.errors import UnreadableJudgement
from services.evaluation.evals.domain import Grade, error_record
from services.evaluation.evals.graders.judging import Judge
from services.evaluation.evals.samples import asked_and_said, usage_of
from services.evaluation.evals.schemas import JudgeSampling, LabelModel

_MOST_TOKENS = 256
"""Room for the longest label."""


class LabelModelGrader:
    """Asks for a label; what is none of them is an error of this grade, never a guess."""

    def __init__(self, criterion: LabelModel) -> None:
        self._labels, self._passing = criterion.labels, set(criterion.passing_labels)
        order = f"Answer with exactly one of these labels and nothing else: {', '.join(criterion.labels)}."
        self._judge = Judge(criterion, JudgeSampling(), order, most_tokens=_MOST_TOKENS)

    def body(self, scope: Mapping[str, Any]) -> dict[str, Any]:
        """The live request; raises MissingVariable."""
        return self._judge.body(scope, {"type": "string", "enum": self._labels})

    def grade(self, body: Mapping[str, Any], said: Mapping[str, Any]) -> Grade:
        """The grade by what the model said; its label stands in the sample."""
        sample, usage = asked_and_said(body, said), usage_of(said)
        try:
            label = read_label(said["text"], self._labels)
        except UnreadableJudgement as error:
            return Grade(error=error_record(error), sample=sample, usage=usage)
        passed = label in self._passing
        return Grade(passed=passed, score=float(passed), sample=sample | {"label": label}, usage=usage)


def read_label(text: str, labels: Sequence[str]) -> str:
    """The label that a text is, quotes, blanks, a full stop and case aside; raises UnreadableJudgement.

    A label within a sentence is not taken: "not correct" is not "correct".
    """
    try:
        said = json.loads(text)
    except ValueError:
        said = text
    plain = _plain(said if isinstance(said, str) else text)
    found = [label for label in labels if label == plain] or [
        label for label in labels if _plain(label).casefold() == plain.casefold()
    ]
    if len(found) != 1:
        raise UnreadableJudgement(f"The grading model said none of {', '.join(labels)}: {text[:200]!r}")
    return found[0]


def _plain(text: str) -> str:
    return text.strip().strip("\"'`*").removesuffix(".").strip()
