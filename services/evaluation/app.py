"""The evaluation service's own web app, for deployments that give each service its door."""

from fastapi import FastAPI

from services.evaluation.batches.routes import router as batches
from services.evaluation.evals.routes import router as evals
from services.evaluation.rewards.routes import router as rewards
from services.evaluation.routes import router as evaluation
from services.evaluation.settings import EvaluationSettings
from shared.telemetry import configure_logging
from shared.web import AccessPolicy, create_app
from shared.wiring import Wiring


def create_evaluation_app(access: AccessPolicy) -> FastAPI:
    """Experiments, evaluations, evals, graders and batches alone, behind the caller's own access policy."""
    settings = EvaluationSettings()
    configure_logging(settings.log_level, service="evaluation")
    routers = [evaluation, evals, rewards, batches]
    return create_app(
        "Uplift evaluation", routers, wiring_factory=lambda: Wiring.from_settings(settings), access=access
    )
