"""Every named recipe trains: two steps on the tiny model, with what it says of itself in force."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.training.lora.base_model import BaseModel, load_base, prepare
from services.training.lora.examples import tokenize
from services.training.lora.loop import Training
from services.training.lora.noise import Noise
from services.training.lora.objectives import ContinuedPretraining, Supervised
from services.training.lora.packing import Group
from services.training.lora.tuned import make_trainable
from services.training.lora.windows import windows_of
from services.training.order import Stepped
from services.training.recipe import Recipe, recipe_file, recipe_names
from tests.factories.tiny_model import make_tiny_model
from tests.ml.test_training_lora import rows

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


class OneThread:
    def threads(self) -> int:
        return 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def load(folder: Path, recipe: Recipe) -> BaseModel:
    if recipe.tune == "qlora":
        pytest.importorskip("bitsandbytes")
        return load_base(folder, recipe.tune)
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return prepare(whole, AutoTokenizer.from_pretrained(folder), frozen=recipe.tune != "full")


@pytest.mark.parametrize("name", recipe_names())
def test_trains_two_steps(folder: Path, tmp_path: Path, name: str) -> None:
    recipe = Recipe.from_differences({"base": name, "max_steps": 2})
    torch.manual_seed(recipe.seed)
    model = load(folder, recipe)
    groups: list[Group] = tokenize(model.tokenizer, rows() * 8, recipe.max_length)[0]
    objective = Supervised(model, Noise.of(recipe))
    if recipe.objective == "continued_pretraining":
        groups = windows_of(model.tokenizer, ["The valve is open. " * 9] * 20, 64)
        objective = ContinuedPretraining(model, Noise.of(recipe))
    steps: list[Stepped] = []
    training = Training(
        model=model,
        tuned=make_trainable(model, recipe),
        objective=objective,
        recipe=recipe,
        train=groups[4:],
        validation=groups[:4],
        base_model="tiny",
        state_dir=tmp_path / "states",
        checkpoint_dir=tmp_path / "checkpoints",
        data_sha256="data",
        emit=lambda event: steps.append(event) if isinstance(event, Stepped) else None,
        should_stop=lambda: False,
        share=OneThread(),
    )
    before = training.tuned.tensors()
    finished = training.run()
    assert [step.step for step in steps] == [1, 2]
    assert finished.valid_loss is not None
    assert all(math.isfinite(step.train_loss) and step.gradient_norm > 0 for step in steps)
    after = training.tuned.tensors()
    assert any(not torch.equal(before[tensor], after[tensor]) for tensor in before), "something has been learned"


@pytest.mark.parametrize("name", [name for name in recipe_names() if name != "default"])
def test_differs_from_the_default_and_says_what_for(name: str) -> None:
    description, differences = recipe_file(name)
    default = Recipe().model_dump()
    assert differences
    assert all(Recipe.named(name).model_dump()[field] != default[field] for field in differences), "differences only"
    assert description.endswith((".", "?"))
    assert 30 < len(description) < 300
