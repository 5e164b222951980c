"""The retrieval service's own web app, for deployments that give each service its door."""

from fastapi import FastAPI

from services.retrieval.routes import router
from services.retrieval.settings import RetrievalSettings
from shared.telemetry import configure_logging
from shared.web import AccessPolicy, create_app
from shared.wiring import Wiring


def create_retrieval_app(access: AccessPolicy) -> FastAPI:
    """Vector stores and embeddings alone, behind the caller's own access policy."""
    settings = RetrievalSettings()
    configure_logging(settings.log_level, service="retrieval")
    return create_app(
        "Uplift retrieval", [router], wiring_factory=lambda: Wiring.from_settings(settings), access=access
    )
