"""The gateway's wiring: every service's routes in one app, behind API keys (start it with uvicorn --factory)."""

from fastapi import FastAPI

from services.data.routes import router as data
from services.evaluation.routes import router as evaluation
from services.gateway.access import api_key_access
from services.gateway.routes import router as keys
from services.generation.routes import router as generation
from services.retrieval.routes import router as retrieval
from services.training.routes import router as training
from shared.jobs.routes import router as jobs
from shared.settings import Settings
from shared.telemetry import configure_logging
from shared.web import create_app as create_edge
from shared.wiring import Wiring

ROUTERS = [data, training, retrieval, generation, evaluation, jobs, keys]


def create_app() -> FastAPI:
    """The public app, configured by the environment."""
    settings = Settings()
    configure_logging(settings.log_level, service="gateway")
    return create_edge("Uplift", ROUTERS, wiring_factory=lambda: Wiring.from_settings(settings), access=api_key_access)
