"""What saves time and memory changes no result: kept tokens, recomputed activations."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from services.training.errors import NoTrainingExamples
from services.training.lora.examples import tokenize
from services.training.lora.objectives import flat
from services.training.lora.packing import TokenExample, pack
from services.training.lora.scoring import score_pack
from services.training.lora.token_cache import KEPT_DAYS, Tokenised, cached
from services.training.recipe import Recipe
from tests.factories.tiny_model import make_tiny_model
from tests.ml.test_training_lora import ours, shaken
from tests.ml.test_training_resume import RECIPE, ROWS, Runs

MADE: Tokenised = (
    [(TokenExample((1, 2), (3,)), TokenExample((1, 2, 3), (4, 5))), (TokenExample((9,), (8, 7)),)],
    [700, 800],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


class Maker:
    """Counts how often it had to work."""

    def __init__(self, made: Tokenised = MADE) -> None:
        self.made, self.times = made, 0

    def __call__(self) -> Tokenised:
        self.times += 1
        return self.made


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"messages": [], "answer": ""}\n')
    return path


def test_the_same_rows_are_tokenised_once(folder: Path, rows: Path, tmp_path: Path) -> None:
    maker = Maker()
    first = cached(tmp_path / "cache", rows, folder, 100, maker)
    assert cached(tmp_path / "cache", rows, folder, 100, maker) == first == MADE
    assert maker.times == 1


def _other_rows(rows: Path, _model: Path) -> None:
    rows.write_text('{"messages": [], "answer": "more"}\n')


def _other_template(_rows: Path, model: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ messages }}")


@pytest.mark.parametrize("change", [_other_rows, _other_template])
def test_other_rows_and_another_template_are_tokenised_anew(
    rows: Path, tmp_path: Path, change: Callable[[Path, Path], None]
) -> None:
    model, maker = make_tiny_model(tmp_path / "model"), Maker()
    cached(tmp_path / "cache", rows, model, 100, maker)
    cached(tmp_path / "cache", rows, model, 101, maker)
    assert maker.times == 2
    change(rows, model)
    cached(tmp_path / "cache", rows, model, 100, maker)
    assert maker.times == 3


def test_a_damaged_entry_is_made_again(folder: Path, rows: Path, tmp_path: Path) -> None:
    maker = Maker()
    cached(tmp_path / "cache", rows, folder, 100, maker)
    (entry,) = (tmp_path / "cache").iterdir()
    entry.write_bytes(entry.read_bytes()[:-9])
    assert cached(tmp_path / "cache", rows, folder, 100, maker) == MADE
    assert cached(tmp_path / "cache", rows, folder, 100, maker) == MADE
    assert maker.times == 2


def test_entries_written_at_once_leave_one_and_no_remains(folder: Path, rows: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: cached(tmp_path / "cache", rows, folder, 100, Maker()), range(16)))
    assert answers == [MADE] * 16
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".safetensors"]


def test_an_entry_long_unused_is_removed_and_one_in_use_is_not(folder: Path, rows: Path, tmp_path: Path) -> None:
    maker = Maker()
    cached(tmp_path / "cache", rows, folder, 100, maker)
    (entry,) = (tmp_path / "cache").iterdir()
    almost = time.time() - (KEPT_DAYS - 1) * 86400
    os.utime(entry, (almost, almost))
    cached(tmp_path / "cache", rows, folder, 100, maker)
    assert entry.stat().st_mtime > almost + 86400 / 2
    os.utime(entry, (almost - 2 * 86400, almost - 2 * 86400))
    cached(tmp_path / "cache", rows, folder, 101, maker)
    assert not entry.exists()


def test_an_error_is_not_kept(folder: Path, rows: Path, tmp_path: Path) -> None:
    def fail() -> Tokenised:
        raise NoTrainingExamples("none fits")

    with pytest.raises(NoTrainingExamples):
        cached(tmp_path / "cache", rows, folder, 100, fail)
    assert cached(tmp_path / "cache", rows, folder, 100, Maker()) == MADE


def test_checkpointing_gives_the_same_losses_step_by_step_and_resumes_a_run_without_it(
    folder: Path, tmp_path: Path
) -> None:
    """With dropout: what is computed again drops the same inputs."""
    plain, saving = Runs(folder, tmp_path / "plain"), Runs(folder, tmp_path / "saving")
    plain.start().run()
    saving.start(RECIPE.model_copy(update={"gradient_checkpointing": True})).run()
    assert len(plain.losses()) == 12
    for (loss, valid), (plain_loss, plain_valid) in zip(saving.losses(), plain.losses(), strict=True):
        assert loss == pytest.approx(plain_loss, abs=1e-6)
        assert valid == (None if plain_valid is None else pytest.approx(plain_valid, abs=1e-6))
    assert plain.start(RECIPE.model_copy(update={"gradient_checkpointing": True})).progress.step == 9


def test_checkpointing_keeps_less_for_the_backward_pass(folder: Path) -> None:
    def kept(*, checkpointing: bool) -> int:
        model = ours(folder)
        shaken(model, Recipe(rank=4))
        model.whole.train()
        if checkpointing:
            model.whole.gradient_checkpointing_enable({"use_reentrant": False})
        sizes = {}

        def count(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        examples = flat(tokenize(model.tokenizer, ROWS, 100)[0])
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            score_pack(model, pack(examples)).losses.sum().backward()
        return sum(sizes.values())

    assert kept(checkpointing=True) < kept(checkpointing=False) / 2
