"""What the supervisor starts: who is told what, and that every queue has its worker."""

from pathlib import Path

import pytest

from deploy.local.engines import EmbeddedEngines
from deploy.local.layout import Layout
from deploy.local.processes import QUEUES, WORKERS, environment, once_before, processes
from shared import messages

OWNER, APP = "postgresql+psycopg://owner@db/uplift", "postgresql+psycopg://app@db/uplift"


@pytest.fixture
def engines(tmp_path: Path) -> EmbeddedEngines:
    """Engines of somebody else's."""
    found = EmbeddedEngines(tmp_path, database_url=APP, admin_url=OWNER, redis_url="redis://cache")
    found.secret = "kept"
    return found


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UPLIFT_SECRET", "UPLIFT_ALLOW_HUB", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABASE_ADMIN_URL", OWNER)


def test_only_the_first_steps_know_the_owners_login(engines: EmbeddedEngines) -> None:
    told = environment(engines, 8000)
    assert OWNER not in told.values()
    assert all(OWNER not in spec.environment.values() for spec in processes(Layout(engines.home), told, 8000))
    assert [step.environment["DATABASE_ADMIN_URL"] for step in once_before(engines, told)] == [OWNER, OWNER]


def test_the_schema_comes_before_the_first_project(engines: EmbeddedEngines) -> None:
    names = [step.name for step in once_before(engines, environment(engines, 8000))]
    assert names == ["migrate the schema", "found the default project"]


def test_keeps_processes_off_the_hub_unless_told_otherwise(
    engines: EmbeddedEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environment(engines, 8000)["HF_HUB_OFFLINE"] == "1"
    monkeypatch.setenv("UPLIFT_ALLOW_HUB", "1")
    assert "HF_HUB_OFFLINE" not in environment(engines, 8000)


def test_a_secret_of_the_operators_wins_over_the_homes(
    engines: EmbeddedEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environment(engines, 8000)["UPLIFT_SECRET"] == "kept"
    monkeypatch.setenv("UPLIFT_SECRET", "the operator's")
    assert environment(engines, 8000)["UPLIFT_SECRET"] == "the operator's"


def test_every_queue_that_a_command_uses_is_served_by_a_worker() -> None:
    used = {command.queue for command in vars(messages).values() if isinstance(getattr(command, "queue", None), str)}
    assert used
    assert used <= set(QUEUES)
    assert {queue.split(".")[0] for queue in QUEUES} == set(WORKERS)


def test_no_secret_is_on_a_command_line(engines: EmbeddedEngines) -> None:
    told = environment(engines, 8000)
    for spec in processes(Layout(engines.home), told, 8000):
        assert not {told["UPLIFT_SECRET"], APP, told["REDIS_URL"]} & set(spec.argv)


def test_nothing_new_comes_in_once_it_stops(engines: EmbeddedEngines) -> None:
    specs = {spec.name: spec for spec in processes(Layout(engines.home), environment(engines, 8000), 8000)}
    assert specs["gateway"].stage > max(specs[name].stage for name in WORKERS) > specs["dispatcher"].stage


def test_one_database_url_serves_as_the_owners_too(tmp_path: Path) -> None:
    assert EmbeddedEngines(tmp_path, database_url=APP).admin_url == APP
