"""What a worker removes of the working folders that other attempts left."""

import os
import time
from pathlib import Path

import pytest

from services.training.training_run import discard_stale

DAY = 86400


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder, all of it written eight days ago."""
    folder = tmp_path / "training" / "ftjob-1"
    state = folder / "states" / "step-00000004"
    state.mkdir(parents=True)
    (state / "manifest.json").write_text("{}")
    (folder / "order.json").write_text("{}")
    for path in (folder, *folder.rglob("*")):
        age(path, 8)
    return folder


def age(path: Path, days: float) -> None:
    written = time.time() - days * DAY
    os.utime(path, (written, written))


def test_keeps_the_folder_of_a_run_that_writes_its_states_alone(run: Path) -> None:
    age(run / "states", 0.5)
    discard_stale(run.parent)
    assert (run / "states" / "step-00000004" / "manifest.json").exists()


def test_removes_a_folder_in_which_nothing_was_written_for_a_week(run: Path) -> None:
    discard_stale(run.parent)
    assert not run.exists()


def test_keeps_a_folder_that_somebody_works_in_while_it_looks(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Path.rglob

    def replaced(folder: Path, pattern: str) -> list[Path]:
        found = list(looks(folder, pattern))
        (run / "order.json").rename(run / "order.before.json")
        return found

    monkeypatch.setattr(Path, "rglob", replaced)
    discard_stale(run.parent)
    assert run.exists()
