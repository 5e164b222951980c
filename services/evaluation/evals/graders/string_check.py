"""Whether one text is, or contains, another."""

from collections.abc import Mapping
from typing import Any

from services.evaluation.evals import templates
from services.evaluation.evals.domain import Grade
from services.evaluation.evals.schemas import StringCheck


class StringCheckGrader:
    """1 or 0, as OpenAI's guide to graders defines the four operations; texts are compared as they are."""

    def __init__(self, criterion: StringCheck) -> None:
        self._operation = criterion.operation
        self._input, self._reference = templates.parse(criterion.input), templates.parse(criterion.reference)

    def grade(self, scope: Mapping[str, Any]) -> Grade:
        """The row's grade; raises MissingVariable."""
        passed = holds(self._operation, self._input.render(scope), self._reference.render(scope))
        return Grade(passed=passed, score=float(passed))


def holds(operation: str, text: str, reference: str) -> bool:
    """eq: the same; ne: not the same; like: text contains reference; ilike: so it does whatever the case."""
    if operation == "eq":
        return text == reference
    if operation == "ne":
        return text != reference
    if operation == "like":
        return reference in text
    return reference.casefold() in text.casefold()
