"""The graders of evals, one file each. Some grade at once, some need vectors, some ask a model."""

from typing import assert_never

from services.evaluation.evals.graders.label_model import LabelModelGrader
from services.evaluation.evals.graders.score_model import ScoreModelGrader
from services.evaluation.evals.graders.string_check import StringCheckGrader
from services.evaluation.evals.graders.text_similarity import CosineGrader, TextSimilarityGrader
from services.evaluation.evals.schemas import Criterion, LabelModel, ScoreModel, StringCheck, TextSimilarity

DirectGrader = StringCheckGrader | TextSimilarityGrader
"""Grades with what the row and its answer say."""
AskingGrader = ScoreModelGrader | LabelModelGrader
"""Writes a chat request and reads the model's answer to it."""
Grader = DirectGrader | CosineGrader | AskingGrader

__all__ = ["AskingGrader", "CosineGrader", "DirectGrader", "Grader", "grader"]


def grader(criterion: Criterion) -> Grader:
    """What grades by this criterion, its templates taken apart once for all rows."""
    if isinstance(criterion, StringCheck):
        return StringCheckGrader(criterion)
    if isinstance(criterion, TextSimilarity):
        return CosineGrader(criterion) if criterion.evaluation_metric == "cosine" else TextSimilarityGrader(criterion)
    if isinstance(criterion, ScoreModel):
        return ScoreModelGrader(criterion)
    if isinstance(criterion, LabelModel):
        return LabelModelGrader(criterion)
    assert_never(criterion)
