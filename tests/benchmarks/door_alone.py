"""Prints what a chat's way costs with an engine that answers at once, with warm and with cold processor caches.

Run: .venv/bin/python -m tests.benchmarks.door_alone [--requests 200]

The real gateway, queue and generation worker, without a model: all the time is the way's own. Then the same while,
between two requests, both cores stream through more memory than their caches hold, as a model's weights do.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
from pydantic import SecretStr

from deploy.local.engines import EmbeddedEngines, free_port
from services.gateway import keys
from services.gateway.bootstrap import found_project
from shared.database import Database
from shared.settings import Settings
from tests.benchmarks.socket_client import Client
from tests.fakes.processes import ROOT, killed_at_the_end, wait_until, worker

_SECRET = "a secret of the benchmark"
_STREAMED_BYTES = 1 << 28
_STREAM_SECONDS = 0.3


@contextlib.contextmanager
def door() -> Iterator[Client]:
    """Engines, gateway and a worker that answers at once, under a fresh home that borrows the pulled models."""
    models = Settings().models_dir
    with tempfile.TemporaryDirectory(prefix="uplift-bench-") as folder:
        home = Path(folder)
        (home / "models").symlink_to(models)
        engines = EmbeddedEngines(home)
        engines.start()
        try:
            yield from _served(engines, home)
        finally:
            engines.stop()


def _served(engines: EmbeddedEngines, home: Path) -> Iterator[Client]:
    told = os.environ | {
        "UPLIFT_HOME": str(home),
        "DATABASE_URL": engines.database_url,
        "DATABASE_ADMIN_URL": engines.admin_url,
        "REDIS_URL": engines.redis_url,
        "UPLIFT_SECRET": _SECRET,
        "UPLIFT_KEY_REQUESTS_PER_MINUTE": "100000",
        "UPLIFT_PROJECT_REQUESTS_PER_MINUTE": "100000",
    }
    migrate = [sys.executable, "-m", "alembic", "-c", "migrations/alembic.ini", "upgrade", "head"]
    subprocess.run(migrate, cwd=ROOT, env=told, check=True, stderr=subprocess.DEVNULL)
    port = free_port()
    gateway = [sys.executable, "-m", "uvicorn", "services.gateway.app:create_app", "--factory", "--no-access-log"]
    gateway += ["--port", str(port), "--log-level", "warning"]
    with (
        killed_at_the_end(worker(told, home, app="tests.fakes.generation_without_model", slots=8)),
        (home / "gateway.log").open("wb") as log,
        subprocess.Popen(gateway, cwd=ROOT, env=told, stdout=log, stderr=log) as serving,
    ):
        try:
            wait_until(lambda: _is_up(port), seconds=60)
            yield Client(port, _key(engines.admin_url))
        finally:
            serving.terminate()


def _is_up(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    return False


def _key(admin_url: str) -> str:
    database = Database(admin_url, pool_size=1)
    with database.system_transaction() as session:
        project = found_project(session, organisation="benchmark", project="benchmark")
        return keys.create(session, project, "benchmark", SecretStr(_SECRET)).text


def stream_memory() -> None:
    """Both cores copy large arrays for a moment, which leaves nothing of anybody else in the caches they share."""
    source, ends = np.ones(_STREAMED_BYTES // 8), time.perf_counter() + _STREAM_SECONDS

    def copy() -> None:
        target = np.empty_like(source)
        while time.perf_counter() < ends:
            np.copyto(target, source)

    threads = [threading.Thread(target=copy) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measured(client: Client, requests: int, between: Callable[[], None]) -> Iterator[tuple[float, float]]:
    """Milliseconds of a whole answer and to a streamed one's first token, in turns; the first ones warm up."""
    for turn in range(-10, requests):
        between()
        whole = client.ask(6, stream=False)
        between()
        streamed = client.ask(6, stream=True)
        assert whole.complete, whole.error
        assert streamed.complete, streamed.error
        if turn >= 0:
            yield whole.total_ms, streamed.first_ms


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--requests", type=int, default=200)
    chosen = options.parse_args()
    print("| the way alone (ms) | least | p50 | p95 |\n|---|---|---|---|")
    with door() as client:
        for caches, requests, between in (
            ("warm caches", chosen.requests, lambda: time.sleep(0.01)),
            ("cold caches", chosen.requests // 4, stream_memory),
        ):
            wholes, firsts = zip(*measured(client, requests, between), strict=True)
            for name, values in (("whole answer", wholes), ("first token", firsts)):
                tail = statistics.quantiles(values, n=20)[18]
                print(f"| {name}, {caches} | {min(values):.1f} | {statistics.median(values):.1f} | {tail:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
