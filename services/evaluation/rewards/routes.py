"""The graders of OpenAI's fine-tuning over HTTP: have one grade an answer, or check that one could."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from services.evaluation.rewards import handlers
from services.evaluation.rewards.answers import RewardObject, ValidatedGrader
from services.evaluation.rewards.asking import GradingModels
from services.evaluation.rewards.objects import grader_object, reward_object
from services.evaluation.rewards.schemas import RunGrader, ValidateGrader
from services.evaluation.settings import EvaluationSettings
from shared.answers import answering
from shared.live import AsyncLiveClient
from shared.web import Caller, asking, caller, while_connected

router = APIRouter(prefix="/fine_tuning/alpha/graders", tags=["fine_tuning"])
Who = Annotated[Caller, Depends(caller)]
Live = Annotated[AsyncLiveClient, Depends(asking)]


@router.post("/run", responses=answering(RewardObject))
async def run_grader(request: Request, body: RunGrader, who: Who, live: Live) -> dict[str, Any]:
    """Grade one answer with a `string_check`, `text_similarity`, `score_model`, `label_model` or `multi` grader.

    A grader that cannot score this answer (a field that the item does not have, a model that says no number, a formula
    that divides by zero) gives the reward 0, a flag in `metadata.errors` and the reason beside it. A grader that no
    answer could be scored by is a 400. `python` graders need a sandbox, which this server has none of.
    """
    models = GradingModels(live, who, embedder=EvaluationSettings().embedder)
    return reward_object(body.grader, await while_connected(request, handlers.run(models, body)))


@router.post("/validate", responses=answering(ValidatedGrader))
def validate_grader(body: ValidateGrader) -> dict[str, Any]:
    """Check a grader without grading: its texts, its fields, and a `multi` grader's formula.

    Whether its models are here is seen when it grades.
    """
    handlers.check(body.grader)
    return {"grader": grader_object(body.grader)}
