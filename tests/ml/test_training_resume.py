"""A run that was broken off and resumed is the run that was not; a torn checkpoint is never trusted."""

import json
import math
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.training.errors import NonFiniteLoss
from services.training.exhaustion import name_exhaustion
from services.training.lora import states, whole_folders
from services.training.lora.adapter import load_weights
from services.training.lora.base_model import prepare
from services.training.lora.examples import Row, tokenize
from services.training.lora.loop import StoppedEarly, Training
from services.training.lora.noise import Noise
from services.training.lora.objectives import Supervised, score_set
from services.training.lora.tuned import make_trainable
from services.training.order import CheckpointSaved, Finished, StateSaved, Stepped
from services.training.recipe import Recipe
from tests.factories.tiny_model import make_tiny_model

RECIPE = Recipe(
    epochs=4, batch_size=4, rank=4, dropout=0.2, save_steps=3, evals_per_epoch=2, learning_rate=0.01, seed=3
)
ROWS = [Row(({"role": "user", "content": f"{a}+{b}"},), str(a + b)) for a in range(4) for b in range(4)]


class Killed(BaseException):
    """Stands for kill -9: nothing catches it, nothing cleans up."""


class OneThread:
    def threads(self) -> int:
        return 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


class Runs:
    """Starts runs over the same model and data; `steps` collects what was said, first word per step."""

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder = folder
        self.state_dir = work / "states"
        self.checkpoint_dir = work / "checkpoints"
        self.steps: dict[int, Stepped] = {}
        self.saved: list[int] = []
        self.kept: dict[int, CheckpointSaved] = {}

    def start(
        self,
        recipe: Recipe = RECIPE,
        on_event: Callable[[Any], None] = lambda _: None,
        should_stop: Callable[[], bool] = lambda: False,
        data: str = "data",
        replayed: int = 0,
    ) -> Training:
        """The last `replayed` of the training examples are not trained on but replayed."""
        torch.manual_seed(recipe.seed)
        whole = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        model = prepare(whole, AutoTokenizer.from_pretrained(self.folder), frozen=recipe.tune != "full")
        examples, _ = tokenize(model.tokenizer, ROWS, 100)

        def hear(event: Stepped | StateSaved | CheckpointSaved) -> None:
            if isinstance(event, Stepped):
                self.steps.setdefault(event.step, event)
            elif isinstance(event, StateSaved):
                self.saved.append(event.step)
            else:
                self.kept.setdefault(event.step, event)
            on_event(event)

        training = Training(
            model=model,
            tuned=make_trainable(model, recipe),
            objective=Supervised(model, Noise.of(recipe)),
            recipe=recipe,
            train=examples[: 12 - replayed],
            replay=examples[12 - replayed : 12],
            validation=examples[12:],
            base_model="tiny",
            state_dir=self.state_dir,
            checkpoint_dir=self.checkpoint_dir,
            data_sha256=data,
            emit=hear,
            should_stop=should_stop,
            share=OneThread(),
        )
        training.resume()
        return training

    def losses(self) -> list[tuple[float, float | None]]:
        return [(step.train_loss, step.valid_loss) for _, step in sorted(self.steps.items())]


@pytest.fixture(scope="module")
def unbroken(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Runs, Training, Finished]:
    runs = Runs(folder, tmp_path_factory.mktemp("unbroken"))
    training = runs.start()
    return runs, training, training.run()


@pytest.fixture
def runs(folder: Path, tmp_path: Path) -> Runs:
    return Runs(folder, tmp_path / "work")


def same_as(unbroken: tuple[Runs, Training, Finished], runs: Runs, training: Training, finished: Finished) -> None:
    whole_runs, whole_training, whole_finished = unbroken
    assert len(runs.losses()) == len(whole_runs.losses())
    for (loss, valid), (whole_loss, whole_valid) in zip(runs.losses(), whole_runs.losses(), strict=True):
        assert loss == pytest.approx(whole_loss, abs=1e-6)
        assert valid == (None if whole_valid is None else pytest.approx(whole_valid, abs=1e-6))
    assert finished.best_step == whole_finished.best_step
    assert finished.trained_tokens == whole_finished.trained_tokens
    for name, tensor in whole_training.best.items():
        torch.testing.assert_close(training.best[name], tensor, rtol=0, atol=1e-6)


def test_learns(unbroken: tuple[Runs, Training, Finished]) -> None:
    runs, _, finished = unbroken
    assert runs.losses()[-1][0] < 0.7 * runs.losses()[0][0]
    assert finished.valid_loss == min(valid for _, valid in runs.losses() if valid is not None)
    assert runs.saved == [3, 6, 9]


def test_equal_seeds_give_equal_runs_and_others_do_not(
    unbroken: tuple[Runs, Training, Finished], runs: Runs, folder: Path, tmp_path: Path
) -> None:
    training = runs.start()
    same_as(unbroken, runs, training, training.run())
    other = Runs(folder, tmp_path / "other")
    other.start(RECIPE.model_copy(update={"seed": 4})).run()
    assert other.losses() != runs.losses()


@pytest.mark.parametrize("at", range(1, 12))
def test_killed_after_any_step_it_goes_on_as_if_nothing_had_happened(
    unbroken: tuple[Runs, Training, Finished], runs: Runs, at: int
) -> None:
    def kill(event: object) -> None:
        if isinstance(event, Stepped) and event.step == at:
            raise Killed

    with pytest.raises(Killed):
        runs.start(on_event=kill).run()
    training = runs.start()
    assert training.progress.step == at - 1 - (at - 1) % RECIPE.save_steps
    same_as(unbroken, runs, training, training.run())


@pytest.mark.parametrize("write", range(8))
def test_killed_inside_a_save_it_goes_on_from_the_state_before(
    unbroken: tuple[Runs, Training, Finished], runs: Runs, write: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second state dies at its `write`-th flush: after some file, the manifest, or the folder."""
    flushes = 0
    flush = whole_folders._flush

    def dying_flush(path: Path) -> None:
        nonlocal flushes
        second = runs.state_dir in path.parents and "00000006" in str(path)
        if second or (runs.saved == [3] and path == runs.state_dir):
            flushes += 1
            if flushes > write:
                raise Killed
        flush(path)

    with monkeypatch.context() as patched:
        patched.setattr(whole_folders, "_flush", dying_flush)
        with pytest.raises(Killed):
            runs.start().run()
    training = runs.start()
    assert training.progress.step == (3 if write < 7 else 6)
    same_as(unbroken, runs, training, training.run())


def test_stopped_when_asked_it_saves_first_and_loses_no_step(
    unbroken: tuple[Runs, Training, Finished], runs: Runs
) -> None:
    training = runs.start(should_stop=lambda: len(runs.steps) == 5)
    with pytest.raises(StoppedEarly):
        training.run()
    assert runs.saved[-1] == 5
    resumed = runs.start()
    assert resumed.progress.step == 5
    same_as(unbroken, runs, resumed, resumed.run())


@pytest.mark.parametrize("recorded", [0, 2, 3])
def test_says_again_what_the_dead_worker_had_not_recorded(
    unbroken: tuple[Runs, Training, Finished], runs: Runs, recorded: int
) -> None:
    def kill(event: object) -> None:
        if isinstance(event, StateSaved):
            raise Killed

    with pytest.raises(Killed):
        runs.start(on_event=kill).run()
    runs.steps = {step: runs.steps[step] for step in range(1, recorded + 1)}
    runs.kept.clear()
    training = runs.start()
    assert training.progress.step == 3
    training.say_again(recorded)
    assert sorted(runs.steps) == [1, 2, 3]
    assert runs.kept[2].metrics["valid_loss"] == unbroken[0].steps[2].valid_loss
    same_as(unbroken, runs, training, training.run())


def test_keeps_a_model_at_every_validation_and_the_last_three_of_them(
    unbroken: tuple[Runs, Training, Finished],
) -> None:
    runs, _, _ = unbroken
    assert list(runs.kept) == [2, 4, 6, 8, 10, 12]
    assert sorted(folder.name for folder in runs.checkpoint_dir.iterdir()) == [
        "step-00000008",
        "step-00000010",
        "step-00000012",
    ]
    for step, kept in runs.kept.items():
        assert None not in kept.metrics.values()
        assert kept.metrics["train_loss"] == runs.steps[step].train_loss
        assert kept.metrics["step"] == step


def test_keeps_a_model_of_a_run_of_one_step_without_validation(runs: Runs) -> None:
    training = runs.start(RECIPE.model_copy(update={"max_steps": 1}))
    training.validation, training.sample = [], []
    training.run()
    assert list(runs.kept) == [1]
    assert runs.kept[1].metrics["valid_loss"] is None


def test_measures_all_validation_examples_at_the_end(runs: Runs) -> None:
    training = runs.start(RECIPE.model_copy(update={"max_validation_examples": 2}))
    training.run()
    *earlier, last = (step for step in runs.steps.values() if step.valid_loss is not None)
    assert [step.full_valid_loss for step in earlier] == [None] * len(earlier)
    assert last.full_valid_loss not in (None, last.valid_loss)
    tally = score_set(training.model, training.objective, training.validation, 512)
    assert last.full_valid_loss == pytest.approx(tally.mean_loss, rel=1e-6)


def test_passes_over_a_state_with_any_byte_changed(runs: Runs) -> None:
    runs.start(RECIPE.model_copy(update={"max_steps": 7})).run()
    newest, before = sorted(runs.state_dir.glob("step-*"), reverse=True)
    for path in [p for p in newest.iterdir() if p.name != "manifest.json"]:
        content = path.read_bytes()
        for damaged in (content[:-1], content[:9] + bytes([content[9] ^ 1]) + content[10:]):
            path.write_bytes(damaged)
            assert not whole_folders.verifies(newest)
        path.unlink()
        assert not whole_folders.verifies(newest)
        path.write_bytes(content)
    assert whole_folders.verifies(newest)
    (newest / "manifest.json").write_text("{")
    found = states.load_newest(runs.state_dir)
    assert found is not None
    assert found.values["progress"]["step"] == int(before.name.removeprefix("step-"))


def test_resumes_nothing_of_another_recipe_or_other_data(runs: Runs) -> None:
    runs.start(RECIPE.model_copy(update={"max_steps": 7})).run()
    assert runs.start(RECIPE.model_copy(update={"max_steps": 7})).progress.step == 6
    assert runs.start(RECIPE.model_copy(update={"max_steps": 7}), data="other").progress.step == 0
    assert runs.start(RECIPE.model_copy(update={"max_steps": 7, "alpha": 1.0})).progress.step == 0


def test_says_what_is_not_as_it_was_when_the_state_was_written(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    short = RECIPE.model_copy(update={"max_steps": 4})
    runs.start(short).run()
    assert runs.start(short).differs == {}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    resumed = runs.start(short)
    assert resumed.progress.step == 3, "it goes on all the same"
    assert {name: now for name, (_, now) in resumed.differs.items()} == {"threads": "99"}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small filesystem needs root")
def test_a_full_disk_leaves_the_state_whole_and_is_named(
    unbroken: tuple[Runs, Training, Finished], folder: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("this machine mounts nothing")
    try:
        runs = Runs(folder, small)

        def fill(event: object) -> None:
            if isinstance(event, StateSaved):
                free = shutil.disk_usage(small).free
                (small / "ballast").write_bytes(b"x" * max(0, free - 40_000))

        with pytest.raises((OSError, SafetensorError)) as full:
            runs.start(on_event=fill).run()
        named = name_exhaustion(full.value)
        assert named is not None
        assert named.code == "disk_full"
        (small / "ballast").unlink()
        assert not list(small.rglob(".partial-*")), "what was half written gives its room back"
        training = runs.start()
        assert training.progress.step == 3
        same_as(unbroken, runs, training, training.run())
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)  # loaded tensors are still mapped from it


def test_states_hold_tensors_and_json_only(runs: Runs) -> None:
    runs.start(RECIPE.model_copy(update={"max_steps": 4})).run()
    (folder,) = runs.state_dir.iterdir()
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    assert json.loads((folder / "state.json").read_text())["progress"]["step"] == 3


@pytest.mark.parametrize("validates", [True, False])
def test_stops_at_a_loss_that_is_not_finite_and_keeps_the_last_good_model(runs: Runs, *, validates: bool) -> None:
    """The weights become NaN; the good ones are those of step 2, whether a checkpoint or only a state has them."""
    once = {"save_steps": 100} if validates else {"save_steps": 2, "evals_per_epoch": 1, "batch_size": 1}
    training = runs.start(RECIPE.model_copy(update=once))

    def poison(event: object) -> None:
        if isinstance(event, CheckpointSaved):
            runs.kept[event.step] = event
        if isinstance(event, Stepped) and event.step == 3:
            with torch.no_grad():
                next(iter(training.parameters.values())).fill_(math.nan)

    training.emit = poison
    with pytest.raises(NonFiniteLoss, match="step 2 is the last good one") as stopped:
        training.run()
    assert stopped.value.code == "non_finite_loss"
    assert list(runs.kept) == [2]
    assert all(torch.isfinite(value).all() for value in load_weights(runs.kept[2].folder).values())
    assert (runs.kept[2].folder / "adapter_config.json").is_file(), "it is a model of its own"
    assert runs.kept[2].metrics["step"] == 2


def test_stops_when_a_finite_loss_explodes_and_does_not_replace_good_models(runs: Runs) -> None:
    """From step 8 on every logit is thirty times too large."""
    training = runs.start(RECIPE.model_copy(update={"epochs": 40, "save_steps": 1000, "patience": None}))

    def throw(event: object) -> None:
        if isinstance(event, CheckpointSaved):
            runs.kept[event.step] = event
        if isinstance(event, Stepped):
            runs.steps[event.step] = event
            if event.step == 7:
                with torch.no_grad():
                    training.model.network.norm.weight.mul_(30.0)

    training.emit = throw
    with pytest.raises(NonFiniteLoss, match=r"exploded.* step 6 is the last good one"):
        training.run()
    assert max(runs.steps) == 12, "the fifth wild step in a row"
    assert load_weights(runs.kept[6].folder)
    assert not any(step > 6 for step in runs.kept)


def test_keeps_the_best_weights_and_stops_when_validation_stops_gaining(runs: Runs) -> None:
    """A learning rate that is far too high: validation is best early."""
    sick = RECIPE.model_copy(
        update={"learning_rate": 0.3, "epochs": 40.0, "patience": 2, "schedule": "constant", "save_steps": 1000}
    )
    training = runs.start(sick)
    finished = training.run()
    assert finished.stopped_early
    assert finished.steps < training.plan.total_steps
    assert finished.best_step < finished.steps
    valid = {step: event.valid_loss for step, event in runs.steps.items() if event.valid_loss is not None}
    assert finished.valid_loss == min(valid.values()) == valid[finished.best_step]
    assert any(not torch.equal(training.best[name], now) for name, now in training.tuned.tensors().items())


def test_the_effective_batch_is_the_same_however_it_is_cut(
    unbroken: tuple[Runs, Training, Finished], runs: Runs
) -> None:
    """Without dropout, whose masks follow the cuts."""
    dry = RECIPE.model_copy(update={"dropout": 0.0})
    runs.start(dry).run()
    whole = runs.losses()
    runs.steps.clear()
    shutil.rmtree(runs.state_dir)
    runs.start(dry.model_copy(update={"micro_batch_tokens": 20})).run()
    assert [loss for loss, _ in runs.losses()] == pytest.approx([loss for loss, _ in whole], abs=1e-4)
