"""Fixtures that hand out the real parts: the embedded Postgres and Valkey, migrated, and the pulled models."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa
from xdist.scheduler import LoadFileScheduling

from deploy.local.engines import EmbeddedEngines
from services.gateway.bootstrap import found_project
from shared.database import Database
from shared.ids import new_id
from shared.settings import Settings
from shared.storage import Storage
from shared.wiring import Wiring

# read when torch is loaded: tests share their cores with the workers that they start
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# no test is timed: the machine is shared with whatever else runs
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
ROOT = Path(__file__).resolve().parent.parent
_CONTRACT = "tests/contract/"
_LONG = (_CONTRACT, "tests/e2e/")
SECRET = "a secret of the tests"
_END_WORK = """
UPDATE jobs SET status = 'cancelled', notify_kind = NULL WHERE status NOT IN ('succeeded', 'failed', 'cancelled')
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes minutes, so that it does not run alone at the end; chance orders the rest."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Several at once: a file's tests in one process, for their fixtures' sake."""
    config.option.loadscopereorder = False  # xdist would begin with the files that have the most tests
    return _ByFixtures(config, log)


class _ByFixtures(LoadFileScheduling):
    """By file, but the contract group in one process: it shares a platform. The fuzzing takes so long that it has one
    of its own."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        shares = file.startswith(_CONTRACT) and not file.endswith("test_fuzz.py")
        return _CONTRACT if shares else file


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedEngines]:
    """Postgres and Valkey of our own, under a temporary home."""
    started = EmbeddedEngines(tmp_path_factory.mktemp("home"))
    started.start()
    yield started
    started.stop()


@pytest.fixture(scope="session")
def stack_environment(engines: EmbeddedEngines) -> dict[str, str]:
    """The environment that a process of the platform would be started with, schema migrated."""
    environment = {
        **os.environ,
        "UPLIFT_HOME": str(engines.home),
        "DATABASE_URL": engines.database_url,
        "DATABASE_ADMIN_URL": engines.admin_url,
        "REDIS_URL": engines.redis_url,
        "UPLIFT_SECRET": SECRET,
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    migrate = [sys.executable, "-m", "alembic", "-c", "migrations/alembic.ini", "upgrade", "head"]
    subprocess.run(migrate, cwd=ROOT, env=environment, check=True)
    return environment


@pytest.fixture(scope="session")
def settings(engines: EmbeddedEngines, stack_environment: dict[str, str]) -> Settings:
    """Short leases, so that a killed worker is missed within seconds."""
    return Settings(
        home=engines.home,
        database_url=engines.database_url,
        database_admin_url=engines.admin_url,
        redis_url=engines.redis_url,
        secret=SECRET,
        lease_seconds=2.0,
        heartbeat_seconds=0.5,
        reconcile_seconds=0.3,
        unclaimed_seconds=1.0,
    )


@pytest.fixture(scope="session")
def database(settings: Settings) -> Iterator[Database]:
    """Connected as the application's login: row-level security applies."""
    connected = Database(settings.database_url)
    yield connected
    connected.close()


@pytest.fixture(scope="session")
def admin_database(settings: Settings) -> Iterator[Database]:
    """Connected as the schema's owner, for founding projects."""
    connected = Database(settings.database_admin_url, pool_size=1)
    yield connected
    connected.close()


@pytest.fixture
def project_id(admin_database: Database, database: Database) -> Iterator[str]:
    """A fresh project, so that tests share the database without seeing each other; its open work ends with the test,
    or the workers of a later one would begin with it."""
    made = make_project(admin_database)
    yield made
    with database.transaction(made) as session:
        for _ in ("what is open", "what its end ordered"):
            session.execute(sa.text(_END_WORK))


def make_project(admin_database: Database) -> str:
    with admin_database.system_transaction() as session:
        return found_project(session, organisation="tests", project=new_id("p-"))


@pytest.fixture
def storage(settings: Settings, tmp_path: Path) -> Storage:
    return Storage(f"file://{tmp_path / 'blobs'}", cache=tmp_path / "cache")


@pytest.fixture
def wiring(settings: Settings, database: Database, storage: Storage) -> Iterator[Wiring]:
    """The parts of a process that has no specialists."""
    from shared.live import LiveClient

    parts = Wiring(settings=settings, database=database, storage=storage, live=LiveClient(settings))
    yield parts
    parts.live.close()


def _model(name: str) -> Path:
    folder = Settings().models_dir / name
    if not (folder / "config.json").exists():
        pytest.fail(f"The model {name} is not in {folder.parent}: run `make setup` first.")
    return folder


@pytest.fixture(scope="session")
def base_model_dir() -> Path:
    """The pulled SmolLM2-135M-Instruct."""
    return _model("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def embedder_dir() -> Path:
    """The pulled all-MiniLM-L6-v2."""
    return _model("all-minilm-l6-v2")
