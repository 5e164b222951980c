"""Generation as it runs: its real worker on the queue, and the unmodified client at its own app."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import openai
import uvicorn
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from services.generation.routes import router
from services.generation.stored.routes import router as stored
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
def echo_worker(environment: dict[str, str], home: Path, folder: Path) -> Iterator[processes.Process]:
    """The real worker with an engine that says what a model would have read."""
    started = processes.worker(
        environment | {"UPLIFT_HOME": str(home)}, folder, app="tests.fakes.generation_without_model", slots=8
    )
    with processes.killed_at_the_end(started):
        yield started


def generation_app(
    settings: Settings, home: Path, charge: Callable[[str, int], None] = lambda _project, _tokens: None
) -> FastAPI:
    """Generation's own app for callers whose key is the id of their project; `charge` hears what they used."""

    async def access(request: Request, _parts: Wiring) -> Caller:
        project = request.headers["authorization"].removeprefix("Bearer ")
        return Caller(project, "tests", "org", "key", (), new_id("req_"), meter=partial(charge, project))

    own = settings.model_copy(update={"home": home})
    return create_app("generation", [router, stored], wiring_factory=lambda: Wiring.from_settings(own), access=access)


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """The address of a real server of this app: only one of those hears that a client hung up."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
        thread.start()
        processes.wait_until(lambda: server.started, seconds=20)
        yield f"http://127.0.0.1:{opened.getsockname()[1]}/v1"
        server.should_exit = True
        thread.join(20)


@contextmanager
def generation_client(settings: Settings, home: Path, project_id: str) -> Iterator[openai.OpenAI]:
    """The client of a caller of this project who may do everything."""

    async def access(_request: Request, _parts: Wiring) -> Caller:
        return Caller(project_id, "tests", "org", "key", (), new_id("req_"))

    own = settings.model_copy(update={"home": home})
    app = create_app("generation", [router], wiring_factory=lambda: Wiring.from_settings(own), access=access)
    with TestClient(app) as http:
        yield openai.OpenAI(base_url="http://testserver/v1", api_key="any", http_client=http, max_retries=0)
