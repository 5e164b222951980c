"""Which of a run's checkpoints stay on disk, and so can become models though the run is broken off."""

from pathlib import Path

import pytest
import torch

from services.training.lora import whole_folders
from services.training.lora.adapter import load_weights
from services.training.order import Stepped
from tests.factories.tiny_model import make_tiny_model
from tests.ml.test_training_resume import RECIPE, Killed, Runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def runs(folder: Path, tmp_path: Path) -> Runs:
    return Runs(folder, tmp_path / "work")


def kept_steps(runs: Runs) -> list[int]:
    return sorted(map(whole_folders.step_of, whole_folders.newest_first(runs.checkpoint_dir)))


def test_keeps_the_best_model_too_however_long_ago_it_was(runs: Runs) -> None:
    """The adapter is spoilt after step 5, so that validation was best before; the run is broken off long after that."""
    slow = RECIPE.model_copy(update={"learning_rate": 1e-5, "epochs": 8.0, "patience": None, "save_steps": 5})

    def spoil_and_kill(event: object) -> None:
        if isinstance(event, Stepped) and event.step == 5:
            with torch.no_grad():
                for parameter in training.parameters.values():
                    parameter.add_(0.1)
        if isinstance(event, Stepped) and event.step == 17:
            raise Killed

    training = runs.start(slow, on_event=spoil_and_kill)
    with pytest.raises(Killed):
        training.run()
    best = training.progress.best_step
    assert best < 5
    assert kept_steps(runs) == [best, 12, 14, 16]
    kept = load_weights(whole_folders.newest_first(runs.checkpoint_dir)[-1])
    assert kept.keys() == training.best.keys()
    assert all(torch.equal(kept[name], weights) for name, weights in training.best.items())

    runs.kept.clear()
    resumed = runs.start(slow)
    resumed.say_again(15)
    assert list(runs.kept) == [best, 12, 14], "the worker may not have recorded them"
    resumed.run()
    assert kept_steps(runs) == [best, 20, 22, 24]
