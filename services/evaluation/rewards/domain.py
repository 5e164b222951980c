"""What grading one answer comes to: a reward, the scores behind it, and what kept graders from theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from services.evaluation.evals.domain import Usage

Flag = Literal[
    "invalid_variable_error",
    "sample_parse_error",
    "model_grader_parse_error",
    "model_grader_server_error",
    "formula_parse_error",
    "other_error",
]
"""OpenAI's words for the errors that grading can end in here."""


@dataclass(frozen=True)
class Flaw:
    """Why there is no score."""

    flag: Flag
    details: str


@dataclass(frozen=True)
class Graded:
    """One grader's score, or its flaw."""

    name: str
    score: float | None = None
    flaw: Flaw | None = None
    usage: Usage | None = None
    """The tokens of the model that was asked, if one was."""
    judge: str | None = None
    """The model that wrote the verdict, if one did."""


@dataclass(frozen=True)
class Reward:
    """A grader's whole answer; with any flaw the reward is 0."""

    value: float
    graded: Sequence[Graded]
    flaws: Sequence[Flaw]
    seconds: float
