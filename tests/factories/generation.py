"""Generation as it runs: its real worker on the queue, and the unmodified client at its own app."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
from fastapi import Request
from fastapi.testclient import TestClient

from services.generation.routes import router
from shared.ids import new_id
from shared.settings import Settings
from shared.web import Caller, create_app
from shared.wiring import Wiring
from tests.fakes import processes


@contextmanager
def generation_worker(environment: dict[str, str], home: Path, folder: Path) -> Iterator[processes.Process]:
    """A worker that serves the models of this home; its log lies in `folder`."""
    started = processes.worker(
        environment | {"UPLIFT_HOME": str(home)}, folder, app="services.generation.worker", slots=8
    )
    with processes.killed_at_the_end(started):
        yield started


@contextmanager
def generation_client(settings: Settings, home: Path, project_id: str) -> Iterator[openai.OpenAI]:
    """The client of a caller of this project who may do everything."""

    async def access(_request: Request, _parts: Wiring) -> Caller:
        return Caller(project_id, "tests", "org", "key", (), new_id("req_"))

    own = settings.model_copy(update={"home": home})
    app = create_app("generation", [router], wiring_factory=lambda: Wiring.from_settings(own), access=access)
    with TestClient(app) as http:
        yield openai.OpenAI(base_url="http://testserver/v1", api_key="any", http_client=http, max_retries=0)
