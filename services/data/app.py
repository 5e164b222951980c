"""The data service's own web app, for deployments that give each service its door."""

from fastapi import FastAPI

from services.data.routes import router
from services.data.settings import DataSettings
from services.data.uploads.routes import router as uploads
from shared.telemetry import configure_logging
from shared.web import AccessPolicy, create_app
from shared.wiring import Wiring


def create_data_app(access: AccessPolicy) -> FastAPI:
    """Files and datasets alone, behind the caller's own access policy."""
    settings = DataSettings()
    configure_logging(settings.log_level, service="data")
    return create_app(
        "Uplift data", [router, uploads], wiring_factory=lambda: Wiring.from_settings(settings), access=access
    )
