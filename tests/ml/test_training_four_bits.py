"""QLoRA: beside four-bit weights an adapter trains as it would beside the whole weights that those stand for."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from services.training import quantisation
from services.training.errors import QuantisationUnavailable
from services.training.lora.adapter import load_weights
from services.training.lora.base_model import BaseModel, load_base, prepare
from services.training.lora.examples import tokenize
from services.training.lora.four_bits import FourBitLinear, loading_options
from services.training.lora.loop import Training
from services.training.lora.objectives import Supervised, score_set
from services.training.lora.tuned import make_trainable
from services.training.recipe import Recipe
from tests.factories.tiny_model import make_tiny_model
from tests.ml.test_training_lora import rows, shaken

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
RECIPE = Recipe(tune="qlora", rank=4, alpha=8, learning_rate=0.01, epochs=10, batch_size=4, patience=None)


class OneThread:
    def threads(self) -> int:
        return 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("bitsandbytes")
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def four_bit_layers(model: BaseModel) -> dict[str, FourBitLinear]:
    return {path: layer for path, layer in model.whole.named_modules() if isinstance(layer, FourBitLinear)}


def made_whole(folder: Path, model: BaseModel) -> BaseModel:
    """The same base in its own type, with the weights that the four bits stand for."""
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype)
    for path, layer in four_bit_layers(model).items():
        linear = plain.get_submodule(path)
        assert isinstance(linear, nn.Linear)
        linear.weight.data = layer.four_bits.whole()
    return prepare(plain, model.tokenizer)


def test_every_layer_but_the_head_takes_half_a_byte_a_weight_and_stays_close(folder: Path) -> None:
    model = load_base(folder, "qlora")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    layers = four_bit_layers(model)
    assert layers.keys() == {path for path, m in plain.named_modules() if isinstance(m, nn.Linear)} - {"lm_head"}
    for path, layer in layers.items():
        assert layer.weight.dtype == torch.uint8
        assert layer.weight.numel() * 2 == layer.in_features * layer.out_features
        original = plain.get_submodule(path).weight
        whole = layer.four_bits.whole()
        assert whole.dtype == model.dtype
        assert (whole.float() - original).norm() < 0.11 * original.norm(), "nf4's error on normal weights is 9 %"


@pytest.mark.parametrize("kind", [{}, {"dora": True}, {"targets": ("q_proj",)}], ids=["lora", "dora", "attention only"])
def test_loss_and_gradients_are_those_beside_the_weights_made_whole(
    folder: Path, kind: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    # layers in four bits are never fused: the reference has to round where they do, for the comparison is exact
    monkeypatch.setattr("services.training.lora.adapter.fuse_attention", lambda *_: None)
    model = load_base(folder, "qlora")
    reference = made_whole(folder, model)
    recipe = RECIPE.model_copy(update=kind)
    ours, theirs = shaken(model, recipe), shaken(reference, recipe)
    theirs.load(ours.tensors())
    examples, _ = tokenize(model.tokenizer, rows(), 200)
    before = score_set(model, Supervised(model), examples, 64).loss
    for each in (model, reference):
        each.whole.train()
        Supervised(each).loss(examples)[0].backward()
    assert before == pytest.approx(score_set(reference, Supervised(reference), examples, 64).loss, rel=1e-5)
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-5, atol=1e-7, msg=name)
    again = score_set(model, Supervised(model), examples, 64).loss
    assert again == pytest.approx(before, rel=1e-6), "evaluating does not rewrite the weights"


def test_learns_and_serves_on_the_whole_base(folder: Path, tmp_path: Path) -> None:
    """The adapter goes beside the base that is served, which is not quantised: its loss there is nearly the same."""
    torch.manual_seed(0)
    model = load_base(folder, "qlora")
    examples, _ = tokenize(model.tokenizer, rows(), 200)
    training = Training(
        model=model,
        tuned=make_trainable(model, RECIPE),
        objective=Supervised(model),
        recipe=RECIPE,
        train=examples,
        validation=examples,
        base_model="tiny",
        state_dir=tmp_path / "states",
        checkpoint_dir=tmp_path / "checkpoints",
        data_sha256="data",
        emit=lambda _: None,
        should_stop=lambda: False,
        share=OneThread(),
    )
    first = score_set(model, training.objective, examples, 512).mean_loss
    finished = training.run()
    assert finished.valid_loss is not None
    assert finished.valid_loss < 0.7 * first, "it learns"
    (tmp_path / "adapter").mkdir()
    training.tuned.save(tmp_path / "adapter", training.best, "tiny")
    plain = prepare(AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype), model.tokenizer)
    served = make_trainable(plain, RECIPE.model_copy(update={"tune": "lora"}), tmp_path / "adapter")
    assert served.tensors().keys() == load_weights(tmp_path / "adapter").keys()
    loss = score_set(plain, Supervised(plain), examples, 512).mean_loss
    assert loss == pytest.approx(finished.valid_loss, rel=0.3)
    assert loss < 0.8 * first


def test_says_what_to_install_where_the_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisation, "find_spec", lambda _name: None)
    with pytest.raises(QuantisationUnavailable, match=r"pip install 'uplift\[qlora\]'") as refused:
        loading_options(torch.float32)
    assert refused.value.param == "recipe.tune"
