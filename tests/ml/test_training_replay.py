"""Replay: old examples beside the new ones in every batch, one loss for both, counted apart, and less forgotten."""

from pathlib import Path

import pytest
import torch

from services.training.errors import InvalidRecipe
from services.training.lora.objectives import score_set
from services.training.lora.packing import Group
from services.training.recipe import Recipe
from tests.factories.tiny_model import make_tiny_model
from tests.ml.test_training_resume import RECIPE, Killed, Runs

REPLAYING = RECIPE.model_copy(update={"replay_ratio": 0.5})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def test_a_step_is_one_mean_over_what_is_new_and_what_is_replayed(folder: Path, tmp_path: Path) -> None:
    recipe = REPLAYING.model_copy(update={"dropout": 0.0, "max_steps": 1})
    runs = Runs(folder, tmp_path / "one")
    training = runs.start(recipe, replayed=4)
    new = [training.train[place] for place in training.plan.batch(1)]
    old = [training.replay[place] for place in training.plan.replayed(1)]
    assert (len(new), len(old)) == (2, 2)
    objective = training.objective
    total = objective.loss([*new, *old]).total / objective.weight([*new, *old])
    total.backward()
    expected = torch.linalg.vector_norm(
        torch.stack([p.grad.norm() for p in training.parameters.values() if p.grad is not None])
    )
    for parameter in training.parameters.values():
        parameter.grad = None
    means = [score_set(training.model, objective, groups, 512).mean_loss for groups in (new, old)]
    training.run()
    step = runs.steps[1]
    assert step.gradient_norm == pytest.approx(expected.item(), rel=1e-4)
    assert (step.train_loss, step.replay_loss) == (pytest.approx(means[0], rel=1e-4), pytest.approx(means[1], rel=1e-4))
    assert step.replay_tokens == sum(map(objective.tokens, old))
    assert step.tokens == sum(map(objective.tokens, [*new, *old]))


def test_a_resumed_run_replays_what_the_unbroken_one_replays(folder: Path, tmp_path: Path) -> None:
    whole, broken = Runs(folder, tmp_path / "whole"), Runs(folder, tmp_path / "broken")
    finished = whole.start(REPLAYING, replayed=4).run()

    def kill(event: object) -> None:
        if getattr(event, "step", 0) == 8 and len(broken.steps) == 8:
            raise Killed

    with pytest.raises(Killed):
        broken.start(REPLAYING, on_event=kill, replayed=4).run()
    resumed = broken.start(REPLAYING, replayed=4)
    assert resumed.progress.step == 6
    assert resumed.run().trained_tokens == finished.trained_tokens
    for step, said in whole.steps.items():
        assert broken.steps[step].replay_loss == pytest.approx(said.replay_loss, abs=1e-6)
        assert broken.steps[step].train_loss == pytest.approx(said.train_loss, abs=1e-6)


def test_less_is_forgotten(folder: Path, tmp_path: Path) -> None:
    """Learning sums of small numbers, with the last of them replayed or not: those are known better with replay."""

    def loss_on_old(ratio: float) -> float:
        runs = Runs(folder, tmp_path / str(ratio))
        recipe = RECIPE.model_copy(update={"replay_ratio": ratio, "epochs": 12.0, "patience": None, "dropout": 0.0})
        training = runs.start(recipe, replayed=4)
        old: list[Group] = training.replay
        training.run()
        return score_set(training.model, training.objective, old, 512).mean_loss

    assert loss_on_old(0.5) < 0.8 * loss_on_old(0.0)


def test_refuses_replay_where_it_would_say_nothing() -> None:
    with pytest.raises(InvalidRecipe, match="batch_size of at least 2"):
        Recipe.from_differences({"replay_ratio": 0.5, "batch_size": 1})
    with pytest.raises(InvalidRecipe, match="replay_ratio is not for the objective dpo"):
        Recipe.from_differences({"replay_ratio": 0.5, "objective": "dpo"})
