"""Rehearsed or not, a run is the same to the last bit."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from services.training.errors import DoesNotFit
from services.training.fit import check_fit
from services.training.lora import memory
from services.training.lora.packing import Group, TokenExample, pack_size
from services.training.lora.rehearsal import rehearse
from services.training.lora.room import check_weights, foresee, least_bytes
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


def test_what_is_foreseen_to_be_too_much_is_not_computed(folder: Path, tmp_path: Path) -> None:
    training = Runs(folder, tmp_path).start(RECIPE.model_copy(update={"micro_batch_tokens": 4096, "batch_size": 8}))
    computed: list[int] = []
    loss = training.objective.loss

    def watched(groups: list[Group]) -> object:
        computed.append(pack_size(groups))
        return loss(groups)

    training.objective.loss = watched  # type: ignore[assignment, method-assign]
    held = memory.taken_bytes(training.model.device)
    assert held is not None
    estimate = rehearse(training, most_bytes=held // 2)
    packs = training.workload.packs(training.workload.batch(1))
    assert 0 < max(computed) <= max(map(pack_size, packs)) / 2
    assert estimate.seconds > 0
    with pytest.raises(DoesNotFit, match="micro_batch_tokens"):
        check_fit(estimate, None, training.recipe)
    assert all(parameter.grad is None for parameter in training.parameters.values())


def test_foresees_the_largest_pack_by_two_smaller_ones() -> None:
    packs = [[_example(32, shift=n)] * 1 for n in range(3)] + [[_example(32, shift=n) for n in range(8)]]
    held = {32: 1_000, 64: 1_000, 128: 1_640, 256: 0}
    found = foresee(packs, lambda pack: (held[pack_size(pack)], 0.128))
    assert found is not None
    assert found.bytes == 1_640 + 128 * 10
    assert found.seconds_per_token == pytest.approx(0.001)
    assert foresee(packs[:3], lambda _pack: (0, 0.0)) is None, "nothing is smaller"


def test_refuses_weights_that_have_no_room_before_they_are_loaded(folder: Path, tmp_path: Path) -> None:
    file = next(folder.glob("*.safetensors"))
    header = json.loads(file.read_bytes()[8 : 8 + int.from_bytes(file.read_bytes()[:8], "little")])
    weights = sum(math.prod(part["shape"]) for name, part in header.items() if name != "__metadata__")
    full = RECIPE.model_copy(update={"tune": "full", "dropout": 0.0})
    four_bits = RECIPE.model_copy(update={"tune": "qlora"})
    assert least_bytes(folder, RECIPE, torch.bfloat16) == 2 * weights
    assert least_bytes(folder, full, torch.bfloat16) == (2 + 4 + 4 + 8) * weights
    assert least_bytes(folder, full, torch.float32) == (4 + 4 + 8) * weights
    assert least_bytes(folder, four_bits, torch.bfloat16) == weights // 2
    sharded = tmp_path / "sharded"
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    whole.save_pretrained(sharded, max_shard_size="100KB")
    shutil.copy(file, sharded / "consolidated.safetensors")
    assert least_bytes(sharded, RECIPE, torch.bfloat16) == 2 * weights
    check_weights(folder, RECIPE, most_bytes=4 * weights)
    with pytest.raises(DoesNotFit, match=r"tune: qlora .* four bits"):
        check_weights(folder, RECIPE, most_bytes=2 * weights - 1)
    with pytest.raises(DoesNotFit, match="tune: lora"):
        check_weights(folder, full, most_bytes=12 * weights)


def _example(tokens: int, *, shift: int) -> Group:
    return (TokenExample(tuple(range(shift * 100, shift * 100 + tokens - 4)), (1, 2, 3, 4, 5)),)
