"""The platform for the contract group, as a user runs it: `uplift up` on a fresh home, and projects to call it as."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from pydantic import SecretStr

from deploy.local.engines import free_port
from deploy.local.layout import Layout
from services.gateway import keys
from services.gateway.bootstrap import found_project
from shared.database import Database
from shared.settings import Settings
from tests.factories.tiny_model import make_tiny_model

ROOT = Path(__file__).resolve().parents[2]
TINY = "tiny"
FAST = {
    "UPLIFT_DEFAULT_MAX_TOKENS": "32",
    "UPLIFT_RECONCILE_SECONDS": "0.5",
    "UPLIFT_HEARTBEAT_SECONDS": "1",
    "UPLIFT_UNCLAIMED_SECONDS": "5",
}
"""A pause or a cancel is heard within a second, so that tests need not wait for it; answers are short."""


@dataclass(frozen=True)
class Platform:
    """A running platform. Its `told` is the environment its own processes have, with the schema owner's login."""

    home: Path
    base_url: str
    told: dict[str, str]

    def key(self, project: str, *, requests_per_minute: int | None = None) -> str:
        """A new key of a project of that name, which is founded if need be; it may do everything."""
        database = Database(self.told["DATABASE_ADMIN_URL"], pool_size=1)
        try:
            with database.system_transaction() as session:
                project_id = found_project(session, organisation="contract", project=project)
                if requests_per_minute is not None:
                    quota = "INSERT INTO project_quotas (project_id, requests_per_minute) VALUES (:id, :most)"
                    session.execute(sa.text(quota), {"id": project_id, "most": requests_per_minute})
                secret = SecretStr(self.told["UPLIFT_SECRET"])
                return keys.create(session, project_id, "of the contract suite", secret).text
        finally:
            database.close()

    def client_environment(self, project: str) -> dict[str, str]:
        """What the suites of tests/contract/{client,tools} read: where the platform is, and who calls."""
        return {
            "CONTRACT_BASE_URL": self.base_url,
            "CONTRACT_API_KEY": self.key(project),
            "CONTRACT_OTHER_API_KEY": self.key(f"{project}-neighbour"),
            "CONTRACT_LIMITED_API_KEY": self.key(f"{project}-limited", requests_per_minute=3),
        }


@contextmanager
def running_platform(home: Path) -> Iterator[Platform]:
    """Up on a home that borrows the pulled models and has a tiny one to train; down at the end."""
    (home / "models").mkdir()
    for model in Settings().models_dir.iterdir():
        (home / "models" / model.name).symlink_to(model)
    make_tiny_model(home / "models" / TINY)
    told = {**os.environ, **FAST, "UPLIFT_HOME": str(home), "UPLIFT_PORT": str(free_port())}
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "DATABASE_URL", "DATABASE_ADMIN_URL", "REDIS_URL"):
        told.pop(name, None)
    _uplift(told, "up")
    try:
        written = Layout(home).environment.read_text()
        own = dict(word.split("=", 1) for word in shlex.split(written))
        yield Platform(home, f"http://127.0.0.1:{told['UPLIFT_PORT']}/v1", own)
    finally:
        _uplift(told, "down")


def _uplift(environment: dict[str, str], word: str) -> None:
    command = [sys.executable, "-c", "from services.cli.main import app; app()", word]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"uplift {word}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
