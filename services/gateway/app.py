"""The gateway's wiring: every service's routes in one app, behind API keys (start it with uvicorn --factory)."""

from fastapi import FastAPI
from starlette.middleware import Middleware

from services.data.routes import router as data
from services.data.uploads.routes import router as uploads
from services.evaluation.batches.routes import router as batches
from services.evaluation.evals.routes import router as evals
from services.evaluation.rewards.routes import router as rewards
from services.evaluation.routes import router as evaluation
from services.gateway.access import api_key_access
from services.gateway.ledger import Ledger
from services.gateway.openapi import describe
from services.gateway.reference import router as reference
from services.gateway.routes import router as access
from services.gateway.wiring import GatewayWiring
from services.generation.routes import router as generation
from services.generation.stored.routes import router as stored
from services.retrieval.routes import router as retrieval
from services.training.adapters.routes import router as adapters
from services.training.doctor.routes import router as doctor
from services.training.export.routes import router as exports
from services.training.recipes.routes import router as recipes
from services.training.routes import router as training
from services.training.search.routes import router as searches
from shared.jobs.routes import router as jobs
from shared.settings import Settings
from shared.telemetry import configure_logging
from shared.web import create_app as create_edge

ROUTERS = [
    *(generation, retrieval, stored, data, uploads, training, doctor, searches, adapters, exports, recipes),
    *(evaluation, evals, rewards, batches, jobs, access),
]
"""What is asked most comes first: a request is compared with every route until one fits."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The public app; without `settings` it is configured by the environment."""
    found = settings or Settings()
    configure_logging(found.log_level, service="gateway")
    app = create_edge(
        "Uplift",
        ROUTERS,
        wiring_factory=lambda: GatewayWiring.from_settings(found),
        access=api_key_access,
        inner=[Middleware(Ledger)],
        cors_origins=found.cors_origins,
    )
    app.include_router(reference)
    describe(app)
    return app
