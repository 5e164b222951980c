"""Two processes that spread the weights over themselves train what one trains, and each holds half of them."""

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from services.training.errors import ShardingUnsupported
from services.training.lora import base_model, run
from services.training.lora.full import load_model_weights
from services.training.lora.ranks import Ranks, joined
from services.training.lora.sharding import shard
from services.training.order import HANDED_OVER, MEETING, TrainingOrder
from services.training.recipe import Recipe
from services.training.settings import Launch
from tests.factories.tiny_model import make_tiny_model
from tests.fakes.processes import wait_until
from tests.ml.test_training_ranks import RECIPE, OneThread, Pair, assert_same_steps, order_in

FULL = Recipe.from_differences(
    {
        "tune": "full",
        "learning_rate": 1e-3,
        "epochs": 4,
        # of 20 examples, so that every second step has one, and a rank without any
        "batch_size": 19,
        "micro_batch_tokens": 64,
        "save_steps": 3,
        "evals_per_epoch": 1,
        "seed": 3,
    }
)
RECIPES = {
    "full": FULL,
    "full, recomputing activations": FULL.model_copy(update={"gradient_checkpointing": True}),
    "lora": RECIPE.model_copy(update={"batch_size": 19, "micro_batch_tokens": 64, "epochs": 4.0}),
    "dora, recomputing activations": RECIPE.model_copy(update={"dora": True, "gradient_checkpointing": True}),
    "dpo": RECIPE.model_copy(update={"objective": "dpo", "epochs": 1.0, "micro_batch_tokens": 64}),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


class StopsAt:
    """Asks a run to stop before the step that follows so many."""

    def __init__(self, steps: int | None = None) -> None:
        self._left = steps

    def is_set(self) -> bool:
        if self._left is None:
            return False
        self._left -= 1
        return self._left < 0


def in_float32(order: Path) -> int:
    """Where the order of addition moves the last bits only."""
    base_model.has_fast_bfloat16 = lambda _: False
    return run.main(order)


def in_bfloat16(order: Path) -> int:
    base_model.has_fast_bfloat16 = lambda _: True
    return run.main(order)


@pytest.fixture
def alone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Trains in one process, in float32 if nothing else is said; answers what was said of every step."""

    def train(order: Path, stop: StopsAt | None = None, *, bfloat16: bool = False) -> list[dict[str, Any]]:
        monkeypatch.setattr(base_model, "has_fast_bfloat16", lambda _: bfloat16)
        read = TrainingOrder.model_validate_json(order.read_text())
        capsys.readouterr()
        try:
            run.train(read, OneThread(), stop or StopsAt())
        except run.StoppedEarly:
            assert stop is not None
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return train


def steps(said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was last said of every step."""
    return list({event["step"]: event for event in said if event["event"] == "step"}.values())


def only(said: list[dict[str, Any]], event: str) -> dict[str, Any]:
    (found,) = [each for each in said if each["event"] == event]
    return found


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return load_model_weights(folder)


@pytest.mark.parametrize("name", RECIPES)
def test_trains_what_one_trains(
    name: str, model: Path, tmp_path: Path, alone: Callable[..., list[dict[str, Any]]]
) -> None:
    whole, parts = (
        order_in(tmp_path / "whole", model, RECIPES[name]),
        order_in(tmp_path / "parts", model, RECIPES[name], "full"),
    )
    expected = alone(whole)
    pair = Pair(parts, in_float32)
    assert pair.ended() == [0, 0]
    assert_same_steps(steps(pair.said()), steps(expected))
    for event in ("probe", "done"):
        theirs = only(expected, event)
        for field, value in only(pair.said(), event).items():
            if isinstance(value, float) and field != "train_seconds":
                assert value == pytest.approx(theirs[field], abs=1e-4), field
    left, right = (order.parent / "output" for order in (whole, parts))
    assert sorted(path.name for path in right.iterdir()) == sorted(path.name for path in left.iterdir())
    for path in left.glob("*.json"):
        assert json.loads((right / path.name).read_text()) == json.loads(path.read_text()), path.name
    found = weights_in(right)
    for tensor_name, tensor in weights_in(left).items():
        torch.testing.assert_close(found[tensor_name], tensor, rtol=0, atol=5e-4, msg=tensor_name)


def test_a_model_in_bfloat16_steps_as_in_one_process_and_is_saved_so(
    model: Path, tmp_path: Path, alone: Callable[..., list[dict[str, Any]]]
) -> None:
    """Up to bfloat16's rounding, which falls differently where sums are cut differently: measured 1e-2 of a loss."""
    whole, parts = order_in(tmp_path / "whole", model, FULL), order_in(tmp_path / "parts", model, FULL, "full")
    expected = steps(alone(whole, bfloat16=True))
    pair = Pair(parts, in_bfloat16)
    assert pair.ended() == [0, 0]
    assert only(pair.said(), "started")["precision"] == "bfloat16"
    for ours, theirs in zip(pair.steps(), expected, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=3e-2)
        assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=3e-2)
    left, right = (order.parent / "output" for order in (whole, parts))
    assert json.loads((right / "config.json").read_text()) == json.loads((left / "config.json").read_text())
    made = AutoModelForCausalLM.from_pretrained(right, dtype="auto")
    assert made.dtype == torch.bfloat16


def holds(order_file: Path) -> int:
    """Takes one step and writes down what this rank holds of the model and the optimiser, in bytes."""
    base_model.has_fast_bfloat16 = lambda _: False
    order, launch = TrainingOrder.model_validate_json(order_file.read_text()), Launch()
    with joined(launch, order_file.with_name(MEETING), shards=True) as ranks:
        before = _alive()
        model = base_model.load_base(order.model_dir, order.recipe.tune, spread_later=True)
        training, _ = run.prepare(order, model, OneThread(), StopsAt(), ranks)
        training._step(1)
        spread = [p for p in model.whole.parameters() if isinstance(p, DTensor)]
        moments = [
            tensor
            for parameter, state in training.optimizer.state.items()
            for name, tensor in state.items()
            if name != "step" and isinstance(parameter, DTensor)
        ]
        told = {
            "whole": sum(p.nbytes for p in spread),
            "held": sum(p.to_local().nbytes for p in spread),
            "moments": sum(tensor.nbytes for tensor in moments),
            "held_moments": sum(tensor.to_local().nbytes for tensor in moments),
            "unspread": sum(p.nbytes for p in model.whole.parameters() if not isinstance(p, DTensor)),
            "alive": _alive() - before,
            "adapter": 4 * sum(p.numel() for p in training.parameters.values() if not isinstance(p, DTensor)),
        }
    order_file.with_name(f"held-{ranks.rank}.json").write_text(json.dumps(told))
    return 0


def _alive() -> int:
    """Bytes behind all tensors that Python knows; what was fetched counts until it is freed."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    local = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    found = [tensor.detach().untyped_storage() for tensor in local]
    return sum({storage.data_ptr(): storage.nbytes() for storage in found}.values())


@pytest.mark.parametrize("recipe", [FULL, RECIPE], ids=["full", "lora"])
def test_each_rank_holds_half(recipe: Recipe, tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "tiny")
    order = order_in(tmp_path / "half", model, recipe, "full")
    assert Pair(order, holds).ended() == [0, 0]
    told = [json.loads((order.parent / f"held-{rank}.json").read_text()) for rank in range(2)]
    weights = sum(tensor.nbytes for tensor in load_model_weights(model).values())
    for rank in told:
        assert rank["whole"] == weights, "every weight of the base is spread"
        assert rank["unspread"] == rank["adapter"]
        assert 0.45 < rank["held"] / rank["whole"] < 0.55
        tuned = int(recipe.tune == "full")
        assert (rank["moments"], rank["held_moments"]) == (2 * weights * tuned, 2 * rank["held"] * tuned)
        small = 3 * rank["adapter"] + 4096  # an adapter and its moments are whole on every rank
        assert rank["alive"] < rank["held"] + rank["held_moments"] + small, "what was fetched was freed"
    assert sum(rank["held"] for rank in told) == weights


def test_stopped_by_a_signal_to_one_both_go_on_exactly(model: Path, tmp_path: Path) -> None:
    """With noise on the embeddings, which every rank draws for itself."""
    recipe = FULL.model_copy(update={"neftune_alpha": 5.0, "epochs": 12.0, "patience": None})
    whole = order_in(tmp_path / "whole", model, recipe, "full")
    parts = order_in(tmp_path / "parts", model, recipe, "full")
    unbroken = Pair(whole, in_float32)
    assert unbroken.ended() == [0, 0]
    broken = Pair(parts, in_float32)
    wait_until(lambda: len(broken.steps()) >= 4, seconds=120)
    broken.ranks[1].terminate()
    assert broken.ended() == [HANDED_OVER, HANDED_OVER]
    last = broken.steps()[-1]["step"]
    assert last < unbroken.steps()[-1]["step"]
    resumed = Pair(parts, in_float32)
    assert resumed.ended() == [0, 0]
    started = [event for event in resumed.said() if event["event"] == "started"]
    assert started[-1]["resumed_from"] == last
    assert started[-1]["resumed_with"] == {}
    for ours, theirs in zip(resumed.steps(), unbroken.steps(), strict=True):
        for name in ("step", "train_loss", "valid_loss", "gradient_norm"):
            assert ours.get(name) == theirs.get(name)
    found = weights_in(parts.parent / "output")
    assert all(torch.equal(tensor, found[name]) for name, tensor in weights_in(whole.parent / "output").items())


@pytest.mark.parametrize("name", ["full", "lora"])
@pytest.mark.parametrize("first", ["spread", "alone"])
def test_goes_on_from_the_state_of_the_other_kind(
    name: str, first: str, model: Path, tmp_path: Path, alone: Callable[..., list[dict[str, Any]]]
) -> None:
    recipe = RECIPES[name].model_copy(update={"epochs": 6.0, "patience": None})
    whole, parts = order_in(tmp_path / "whole", model, recipe), order_in(tmp_path / "parts", model, recipe, "full")
    expected = steps(alone(whole))
    if first == "spread":
        pair = Pair(parts, in_float32)
        wait_until(lambda: len(pair.steps()) >= 4, seconds=120)
        pair.ranks[0].terminate()
        assert pair.ended() == [HANDED_OVER, HANDED_OVER]
        said = alone(parts)
    else:
        alone(parts, StopsAt(5))
        pair = Pair(parts, in_float32)
        assert pair.ended() == [0, 0]
        said = pair.said()
    started = only(said, "started")
    assert started["resumed_from"] >= 4
    assert set(started["resumed_with"]) >= {"processes", "shard"}
    assert_same_steps(steps(said), expected[-len(steps(said)) :])


def test_refuses_four_bits_before_anything_is_loaded(tmp_path: Path) -> None:
    recipe = Recipe(tune="qlora")
    order = TrainingOrder.model_validate_json(
        order_in(tmp_path / "q", tmp_path / "nowhere", recipe, "full").read_text()
    )
    with pytest.raises(ShardingUnsupported, match="UPLIFT_TRAINING_SHARD=none") as refused:
        run.train(order, OneThread(), StopsAt(), Ranks(0, 2, shards=True))
    assert refused.value.param == "recipe.tune"


def test_refuses_a_model_without_a_list_of_layers(model: Path) -> None:
    config = GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    prepared = base_model.prepare(GPT2LMHeadModel(config), AutoTokenizer.from_pretrained(model))
    with pytest.raises(ShardingUnsupported, match="A gpt2 model keeps no list of decoder `layers`"):
        shard(prepared)
