"""The whole platform, as `uplift up` starts it, for one file of tests at a time."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.engines import free_port
from shared.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def environment(
    tmp_path_factory: pytest.TempPathFactory, base_model_dir: Path, embedder_dir: Path
) -> Iterator[dict[str, str]]:
    """A fresh home that borrows the pulled models, and a port of its own; the platform is up in between."""
    home = tmp_path_factory.mktemp("platform")
    (home / "models").symlink_to(Settings().models_dir)
    told = {**os.environ, "UPLIFT_HOME": str(home), "UPLIFT_PORT": str(free_port())}
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "DATABASE_URL", "DATABASE_ADMIN_URL", "REDIS_URL"):
        told.pop(name, None)
    uplift(told, "up")
    try:
        yield told
    finally:
        uplift(told, "down")


def uplift(environment: dict[str, str], *words: str) -> str:
    command = [sys.executable, "-c", "from services.cli.main import app; app()", *words]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"uplift {' '.join(words)}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
    return ran.stdout
