"""Rehearsed or not, a run is the same to the last bit."""

from pathlib import Path

import pytest
import torch

from services.training.lora.rehearsal import rehearse
from services.training.recipe import Recipe
from tests.factories.tiny_model import make_tiny_model
from tests.ml.test_training_resume import RECIPE, Runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("recipe", [RECIPE, RECIPE.model_copy(update={"tune": "full"})], ids=["lora", "full"])
def test_a_rehearsal_changes_nothing(folder: Path, tmp_path: Path, recipe: Recipe) -> None:
    """With dropout and noise, which would show a random number that was drawn and not given back."""
    recipe = recipe.model_copy(update={"neftune_alpha": 5.0, "max_steps": 5})
    if recipe.tune == "full":
        recipe = recipe.model_copy(update={"dropout": 0.0})
    plain, rehearsed = Runs(folder, tmp_path / "plain"), Runs(folder, tmp_path / "rehearsed")
    first = plain.start(recipe)
    first.run()
    second = rehearsed.start(recipe)
    before, random = second.tuned.tensors(), torch.get_rng_state()
    estimate = rehearse(second, most_bytes=1 << 62)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in second.tuned.tensors().items())
    assert not second.optimizer.state
    assert all(parameter.grad is None for parameter in second.parameters.values())
    second.run()
    assert rehearsed.losses() == plain.losses()
    weights = first.tuned.tensors()
    assert all(torch.equal(value, weights[name]) for name, value in second.tuned.tensors().items())

    computed = [step["computed_tokens"] for step in second.history]
    assert [second.workload.ahead(step).trained for step in range(6)] == [sum(computed[step:]) for step in range(6)]
    assert estimate.seconds > 0
    assert estimate.total_steps == 5
    assert estimate.longest == max(len(example) for group in second.train for example in group)
    assert estimate.limit_bytes is not None
    assert estimate.limit_bytes < 1 << 62, "what the machine has"
    assert second.history[-1]["memory_bytes"] / 2 < estimate.peak_bytes < second.history[-1]["memory_bytes"] * 2
