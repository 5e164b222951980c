"""The generation service's own web app, for deployments that give each service its door."""

from fastapi import FastAPI

from services.generation.routes import router
from services.generation.settings import GenerationSettings
from services.generation.stored.routes import router as stored
from shared.telemetry import configure_logging
from shared.web import AccessPolicy, create_app
from shared.wiring import Wiring


def create_generation_app(access: AccessPolicy) -> FastAPI:
    """Chat, models, prompts, variants and releases alone, behind the caller's own access policy."""
    settings = GenerationSettings()
    configure_logging(settings.log_level, service="generation")
    routers = [router, stored]
    return create_app(
        "Uplift generation", routers, wiring_factory=lambda: Wiring.from_settings(settings), access=access
    )
