"""One running platform for the contract group, and the environments of the clients that are not our own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.running import ROOT, Platform, running_platform

collect_ignore = ["tools"]  # runs in an environment of its own: see test_tools.py
FOLDER = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory, base_model_dir: Path, embedder_dir: Path) -> Iterator[Platform]:
    """Everything, as `uplift up` starts it; takes about 20 s."""
    with running_platform(tmp_path_factory.mktemp("contract")) as started:
        yield started


@pytest.fixture(scope="session")
def environment_of_platform(platform: Platform) -> dict[str, str]:
    """For the suite in `client/` when it runs in our own environment."""
    return platform.client_environment("newer-client")


@pytest.fixture(scope="session")
def client_environments() -> Path:
    """The folder with a virtual environment per requirements file; made when they are not there or not up to date."""
    script = ROOT / "scripts" / "contract-environments"
    told = os.environ | {"PYTHON": sys.executable}
    made = subprocess.run([str(script)], env=told, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-3000:]
    return Path(made.stdout.strip())


def run_suite(folder: str, python: Path, told: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the tests of `folder` with another interpreter; they import nothing of ours."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    argv = [
        str(python),
        "-m",
        "pytest",
        "-c",
        "pytest.ini",
        "--rootdir",
        ".",
        "--confcutdir",
        ".",
        "-p",
        "no:cacheprovider",
    ]
    return subprocess.run(argv, cwd=FOLDER / folder, env=kept | told, capture_output=True, text=True, check=False)
