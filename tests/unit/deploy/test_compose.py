"""The compose file describes the system that `uplift up` starts, checked as far as it can be without an engine."""

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
WORKERS = {"data", "training", "search", "retrieval", "generation", "evaluation"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def test_runs_every_worker_there_is(compose: dict[str, Any]) -> None:
    here = {path.parent.name: path.relative_to(ROOT) for path in (ROOT / "services").rglob("worker.py")}
    assert here.keys() == WORKERS
    for name, path in here.items():
        module = ".".join(path.with_suffix("").parts)
        assert f"-A {module} worker" in compose[f"worker-{name}"]["command"]


def test_gives_no_process_but_the_migration_the_owners_login(compose: dict[str, Any]) -> None:
    holders = {name for name, part in compose.items() if "DATABASE_ADMIN_URL" in part.get("environment", {})}
    assert holders == {"migrate"}


def test_keeps_every_secret_out_of_the_file(compose: dict[str, Any]) -> None:
    for part in compose.values():
        for name, value in part.get("environment", {}).items():
            if "PASSWORD" in name or "SECRET" in name or name.endswith("_URL"):
                assert "${" in str(value), f"{name} is written out"


def test_starts_nothing_before_the_schema_is_there(compose: dict[str, Any]) -> None:
    for name, part in compose.items():
        if name == "gateway" or name.startswith("worker-"):
            assert part["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_publishes_the_gateway_alone_and_on_loopback(compose: dict[str, Any]) -> None:
    published = {name: part["ports"] for name, part in compose.items() if "ports" in part}
    assert list(published) == ["gateway"]
    assert all(port.startswith("127.0.0.1:") for port in published["gateway"])


def test_image_copies_every_package_and_pins_by_hash() -> None:
    dockerfile = (ROOT / "deploy/images/Dockerfile").read_text()
    for package in ("shared", "services", "deploy", "migrations"):
        assert f"COPY {package} {package}" in dockerfile
    assert "--require-hashes" in dockerfile
    assert "USER uplift" in dockerfile
