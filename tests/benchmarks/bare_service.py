"""What anybody would write first: FastAPI, a Celery task and its result, around the same engine as ours.

The gateway's cost is measured beside it. It has no keys, limits, quotas, records or streams, and everything else is as
Celery sets it: JSON, results in Valkey. `running` starts both halves, the worker and uvicorn.
"""

import contextlib
import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from celery import Celery, signals
from fastapi import FastAPI
from pydantic import BaseModel

from deploy.local.engines import free_port
from services.generation.answering import Finished, GenerationRequest, Sampling
from shared.compute import ComputeShare
from tests.fakes.processes import ROOT, killed_at_the_end, wait_until, worker

_WAIT_SECONDS = 120.0
_URL = os.environ.get("REDIS_URL", "")
app = Celery("bare", broker=_URL, backend=_URL, task_default_queue="bare")
_loading = threading.Lock()


@signals.worker_ready.connect
def _say_ready(**_: Any) -> None:
    Path(os.environ["UPLIFT_READY_FILE"]).touch()


class Chat(BaseModel):
    """As much of OpenAI's body as the benchmark sends."""

    model: str
    messages: list[dict[str, str]]
    temperature: float = 0.0
    max_tokens: int = 16


@functools.cache
def _engine() -> Any:
    """Imported late: uvicorn's process needs no torch."""
    from services.generation.engine import Engine

    home = Path(os.environ["UPLIFT_HOME"])

    @contextlib.contextmanager
    def share() -> Iterator[Any]:
        with ComputeShare(home, "generation") as own:
            yield own.threads

    engine = Engine(Path(os.environ["BARE_MODEL"]), share=share)
    engine.start()
    return engine


@app.task
def nothing() -> None:
    """What a round trip takes with nothing to do."""


@app.task
def answer(messages: list[dict[str, str]], tokens: int) -> dict[str, Any]:
    with _loading:
        engine = _engine()
    pieces = list(engine.submit(GenerationRequest(messages, Sampling(temperature=0.0, max_tokens=tokens))))
    text = "".join(piece.text for piece in pieces if not isinstance(piece, Finished))
    last: Finished = pieces[-1]
    return {"text": text, "total_ms": last.total_ms, "completion_tokens": last.completion_tokens}


def create_app() -> FastAPI:
    served = FastAPI()

    @served.post("/v1/chat/completions")
    def complete(body: Chat) -> dict[str, Any]:
        found = answer.delay(body.messages, body.max_tokens).get(timeout=_WAIT_SECONDS)
        message = {"role": "assistant", "content": found["text"]}
        usage = {"completion_tokens": found["completion_tokens"]}
        return {"choices": [{"index": 0, "message": message}], "usage": usage, "total_ms": found["total_ms"]}

    return served


@contextlib.contextmanager
def running(redis_url: str, home: Path, model: Path) -> Iterator[int]:
    """The worker and the HTTP server; gives the port."""
    told = os.environ | {"REDIS_URL": redis_url, "UPLIFT_HOME": str(home), "BARE_MODEL": str(model)}
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.benchmarks.bare_service:create_app", "--factory"]
    command += ["--port", str(port), "--no-access-log", "--log-level", "warning"]
    with (
        killed_at_the_end(worker(told, home, app="tests.benchmarks.bare_service", slots=8)),
        subprocess.Popen(command, cwd=ROOT, env=told) as serving,
    ):
        try:
            wait_until(lambda: _is_up(port), seconds=60)
            yield port
        finally:
            serving.terminate()


def _is_up(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/docs").status_code == 200
    return False


def empty_trips(redis_url: str, count: int) -> list[float]:
    """Milliseconds of bare round trips one after the other: caches warm, nothing else running."""
    app.conf.update(broker_url=redis_url, result_backend=redis_url)
    trips = []
    for _ in range(count):
        began = time.perf_counter()
        nothing.delay().get(timeout=_WAIT_SECONDS)
        trips.append(1000 * (time.perf_counter() - began))
    return trips


@contextlib.contextmanager
def publisher(redis_url: str) -> Iterator[Any]:
    """Gives a function that asks the bare task alone: messages, tokens → (milliseconds of the trip, the engine's)."""
    app.conf.update(broker_url=redis_url, result_backend=redis_url)

    def ask(messages: list[dict[str, str]], tokens: int) -> tuple[float, float]:
        began = time.perf_counter()
        found = answer.delay(messages, tokens).get(timeout=_WAIT_SECONDS)
        return 1000 * (time.perf_counter() - began), found["total_ms"]

    yield ask
