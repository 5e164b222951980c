"""Several processes train the adapter that one would have trained, stop together, and go on as if nothing had been."""

import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file

from services.training.lora import base_model, run
from services.training.lora.packing import TokenExample, portions
from services.training.order import HANDED_OVER, MEETING, TrainingOrder
from services.training.recipe import Recipe
from services.training.settings import child_environment, rank_environment
from tests.factories.tiny_model import make_tiny_model
from tests.fakes.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]
RECIPE = Recipe(
    epochs=3, batch_size=6, rank=4, dropout=0.0, save_steps=3, evals_per_epoch=1, learning_rate=0.01, seed=3
)
ROWS = [(f"{a}+{b}", str(a + b)) for a in range(6) for b in range(4)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def order_in(folder: Path, model: Path, recipe: Recipe, shard: Literal["none", "full"] = "none") -> Path:
    folder.mkdir()
    for name, rows in (("train", ROWS[:-4]), ("validation", ROWS[-4:])):
        more = {"rejected": "no idea"} if recipe.objective == "dpo" else {}
        lines = [json.dumps({"messages": [{"role": "user", "content": q}], "answer": a} | more) for q, a in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    order = TrainingOrder(
        base_model="tiny",
        model_dir=model,
        train_file=folder / "train.jsonl",
        validation_file=folder / "validation.jsonl",
        recipe=recipe,
        state_dir=folder / "states",
        checkpoint_dir=folder / "checkpoints",
        output_dir=folder / "output",
        home=folder / "home",
        shard=shard,
        data_sha256="data",
    )
    path = folder / "order.json"
    path.write_text(order.model_dump_json())
    return path


def adapter(order: Path) -> dict[str, torch.Tensor]:
    return load_file(order.parent / "output" / "adapter_model.safetensors")


class OneThread:
    def threads(self) -> int:
        return 1


def steps_of(said: str) -> list[dict[str, Any]]:
    return [event for event in map(json.loads, said.splitlines()) if event["event"] == "step"]


def assert_same_steps(found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> None:
    """To what the order of addition makes of twelve steps at most."""
    assert len(found) == len(expected)
    assert found[0]["train_loss"] == pytest.approx(expected[0]["train_loss"], abs=1e-6)
    assert found[0]["gradient_norm"] == pytest.approx(expected[0]["gradient_norm"], abs=1e-5)
    for ours, theirs in zip(found, expected, strict=True):
        for name, far in (("train_loss", 5e-5), ("valid_loss", 5e-5), ("gradient_norm", 1e-3)):
            assert ours.get(name) == (None if theirs.get(name) is None else pytest.approx(theirs[name], abs=far))
        assert ours["tokens"] == theirs["tokens"]
        assert ours["train_mean_token_accuracy"] == theirs["train_mean_token_accuracy"]


@pytest.mark.parametrize("shard", ["none", "full"])
def test_two_under_accelerate_launch_train_what_one_trains(
    shard: Literal["none", "full"],
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In float32, where the order of addition moves the last bits only, and training what it makes of them: measured
    at the first step 2e-7 of the loss, at the worst of twelve 6e-6, and 5e-5 of a weight."""
    monkeypatch.setattr(base_model, "has_fast_bfloat16", lambda _: False)
    alone = order_in(tmp_path / "alone", model, RECIPE)
    run.train(TrainingOrder.model_validate_json(alone.read_text()), OneThread(), run._StopSignal())
    expected = steps_of(capsys.readouterr().out)
    together = order_in(tmp_path / "together", model, RECIPE, shard)
    # --multi_gpu is what accelerate calls several processes of one machine; without a GPU they talk over gloo
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
    plain = ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    launched = subprocess.run(
        [sys.executable, *launch, *plain, "-m", "services.training.lora.run", str(together)],
        cwd=ROOT,
        env=child_environment() | {"GLOO_SOCKET_IFNAME": "lo", "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr[-3000:]
    assert len(expected) == 12
    assert_same_steps(steps_of(launched.stdout), expected)
    for name, tensor in adapter(alone).items():
        torch.testing.assert_close(adapter(together)[name], tensor, rtol=0, atol=5e-4)


class Pair:
    """Two processes as the worker starts them, but forked from one that has loaded torch: that takes seconds."""

    def __init__(self, order: Path, train: Callable[[Path], int] = run.main) -> None:
        self._said = order.with_name("said.jsonl")
        (order.parent / MEETING).unlink(missing_ok=True)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self.ranks = [context.Process(target=as_rank, args=(rank, order, self._said, train)) for rank in range(2)]
        for process in self.ranks:
            process.start()

    def said(self) -> list[dict[str, Any]]:
        lines = self._said.read_bytes().split(b"\n")[:-1] if self._said.exists() else []
        return [json.loads(line) for line in lines]

    def ended(self) -> list[int | None]:
        for process in self.ranks:
            process.join(120)
        return [process.exitcode for process in self.ranks]

    def steps(self) -> list[dict[str, Any]]:
        """What was last said of every step: a resumed run says the ones before again."""
        return list({event["step"]: event for event in self.said() if event["event"] == "step"}.values())


def as_rank(rank: int, order: Path, said: Path, train: Callable[[Path], int]) -> None:
    os.environ.update(rank_environment(rank, 2))
    with said.open("a") as output, contextlib.redirect_stdout(output):
        sys.exit(train(order))


def test_stopped_by_a_signal_to_one_both_save_the_same_step_and_go_on_exactly(model: Path, tmp_path: Path) -> None:
    """With dropout, whose masks every rank draws for itself."""
    recipe = RECIPE.model_copy(update={"dropout": 0.2, "epochs": 12.0, "patience": None})
    whole, parts = order_in(tmp_path / "whole", model, recipe), order_in(tmp_path / "parts", model, recipe)
    unbroken = Pair(whole)
    assert unbroken.ended() == [0, 0]
    broken = Pair(parts)
    wait_until(lambda: len(broken.steps()) >= 4, seconds=120)
    broken.ranks[1].terminate()
    assert broken.ended() == [HANDED_OVER, HANDED_OVER]
    last = broken.steps()[-1]["step"]
    assert last < unbroken.steps()[-1]["step"]
    assert broken.said()[-1]["event"] == "state"
    assert broken.said()[-1]["step"] == last, "no step is lost"
    resumed = Pair(parts)
    assert resumed.ended() == [0, 0]
    started = [event for event in resumed.said() if event["event"] == "started"]
    assert started[-1]["resumed_from"] == last
    assert started[-1]["resumed_with"] == {}
    for one, other in zip(resumed.steps(), unbroken.steps(), strict=True):
        for name in ("step", "train_loss", "valid_loss", "gradient_norm"):
            assert one.get(name) == other.get(name)
    assert all(torch.equal(tensor, adapter(whole)[name]) for name, tensor in adapter(parts).items())


def test_cuts_a_batch_into_portions_that_cost_about_the_same() -> None:
    beginning = tuple(range(1000, 1200))
    batch = [(TokenExample((*beginning, *range(n, n + 10)), (1, 2)),) for n in range(0, 160, 10)]
    for parts in (1, 2, 3, 5, 16, 20):
        cut = portions(batch, parts)
        assert sorted(group[0].prompt for part in cut for group in part) == sorted(group[0].prompt for group in batch)
        sizes = [len(part) for part in cut]
        assert len(sizes) == parts
        assert max(sizes) - min(sizes) <= 1
    assert portions([], 2) == [[], []]
    assert portions([batch[0], batch[0]], 2) == [[batch[0]], [batch[0]]]
