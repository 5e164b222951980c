"""What the platform consists of on one machine: the processes after the engines, in the order they start."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.child import ProcessSpec
from deploy.local.engines import EmbeddedEngines
from deploy.local.layout import Layout

ROOT = Path(__file__).resolve().parents[2]
WORKERS = {"data": 2, "training": 1, "search": 2, "retrieval": 32, "generation": 128, "evaluation": 16}
"""Slots per worker; a generation slot is one request in flight, all served by one batching engine.

Searches have a worker of their own: what they decide is a moment's work that must not wait for a training to end. So is
letting go of what an ended training held.
"""

QUEUES = (
    "data",
    "training",
    "search",
    "retrieval.interactive",
    "retrieval.batch",
    "generation.interactive",
    "generation.batch",
    "evaluation",
)


def environment(engines: EmbeddedEngines, port: int) -> dict[str, str]:
    """What every process of the platform is told; the owner's login is not in it."""
    told = {
        **os.environ,
        "UPLIFT_HOME": str(engines.home),
        "UPLIFT_PORT": str(port),
        "UPLIFT_SECRET": os.environ.get("UPLIFT_SECRET") or engines.secret,
        "DATABASE_URL": engines.database_url,
        "REDIS_URL": engines.redis_url,
        "TOKENIZERS_PARALLELISM": "false",
        "MALLOC_ARENA_MAX": "2",
        # caches grow and shrink with every answer; kept in the heap, their gaps made the generation worker hold 3 GB
        "MALLOC_MMAP_THRESHOLD_": "1048576",
        # threads that spin at a barrier starve the thread they wait for when cores are shared: see docs/lab-notebook.md
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "PYTHONUNBUFFERED": "1",
    }
    told.pop("DATABASE_ADMIN_URL", None)
    if not os.environ.get("UPLIFT_ALLOW_HUB"):
        told["HF_HUB_OFFLINE"] = "1"
    return told


@dataclass(frozen=True)
class Step:
    """Something that runs to its end before anything serves."""

    name: str
    argv: list[str]
    environment: dict[str, str]


def once_before(engines: EmbeddedEngines, told: Mapping[str, str]) -> list[Step]:
    """The schema, then the first project; both as the schema's owner."""
    as_owner = {**told, "DATABASE_ADMIN_URL": engines.admin_url}
    migrate = [sys.executable, "-m", "alembic", "-c", str(ROOT / "migrations" / "alembic.ini"), "upgrade", "head"]
    return [
        Step("migrate the schema", migrate, as_owner),
        Step("found the default project", [sys.executable, "-m", "services.gateway.bootstrap"], as_owner),
    ]


def processes(layout: Layout, told: Mapping[str, str], port: int) -> list[ProcessSpec]:
    """Dispatcher, one worker per service, gateway; stopped in reverse, so that nothing new comes in first."""
    gateway = [sys.executable, "-m", "uvicorn", "services.gateway.app:create_app", "--factory", "--no-access-log"]
    gateway += ["--host", "127.0.0.1", "--port", str(port), "--timeout-graceful-shutdown", "5"]
    # longer than clients keep theirs: a server that hangs up first loses the request that is just being sent
    gateway += ["--timeout-keep-alive", "75"]
    return [
        _marked(layout, told, "dispatcher", [sys.executable, "-m", "shared.dispatcher"], grace=10, stage=1),
        *(_marked(layout, told, name, _worker(name, slots), grace=60, stage=2) for name, slots in WORKERS.items()),
        ProcessSpec(
            name="gateway",
            argv=gateway,
            environment=dict(told),
            grace_seconds=10,
            ready_port=port,
            stage=3,
        ),
    ]


def _worker(name: str, slots: int) -> list[str]:
    app = "services.training.search.worker" if name == "search" else f"services.{name}.worker"
    argv = [sys.executable, "-m", "celery", "-A", app, "worker", "--pool", "threads"]
    argv += ["--concurrency", str(slots), "--hostname", f"{name}@%h", "--loglevel", "INFO"]
    return [*argv, "--without-gossip", "--without-mingle", "--without-heartbeat"]


def _marked(
    layout: Layout, told: Mapping[str, str], name: str, argv: list[str], *, grace: float, stage: int
) -> ProcessSpec:
    marker = layout.ready_marker(name)
    return ProcessSpec(
        name=name,
        argv=argv,
        environment={**told, "UPLIFT_READY_FILE": str(marker)},
        grace_seconds=grace,
        ready_marker=marker,
        stage=stage,
    )
