"""What training computes equals what the plain libraries compute for each example alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.training.errors import AdapterMismatch, InvalidRecipe, InvalidTrainingFile, NoTrainingExamples
from services.training.lora.adapter import Adapter, attach, load_weights, save_for_peft, shape_of
from services.training.lora.attention import FusedAttention
from services.training.lora.base_model import BaseModel, prepare
from services.training.lora.examples import Row, tokenize
from services.training.lora.noise import Noise
from services.training.lora.objectives import Supervised, flat, score_noise, score_set
from services.training.lora.packing import Pack, TokenExample, pack, split_batch
from services.training.lora.scoring import score_pack
from services.training.lora.tuned import make_trainable
from services.training.recipe import Recipe
from tests.factories.tiny_model import make_tiny_model

QUESTIONS = ["What is one?", "What is two?", "Who?", "What is one?", "What is the third and longest one of all?"]
ANSWERS = ["1", "2", "me", "one", "three"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def rows() -> list[Row]:
    return [Row(({"role": "user", "content": q},), a) for q, a in zip(QUESTIONS, ANSWERS, strict=True)]


def plain(folder: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")


def ours(folder: Path, dtype: torch.dtype = torch.float32) -> BaseModel:
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    return prepare(whole, AutoTokenizer.from_pretrained(folder))


def shaken(model: BaseModel, recipe: Recipe):
    """An adapter whose B is not zero, so that every gradient is."""
    torch.manual_seed(1)
    adapter = attach(model.whole, recipe)
    with torch.no_grad():
        for layer in adapter.layers.values():
            layer.lora_b.normal_(std=0.1)
    return adapter


def loss_of(model: BaseModel, packed: Pack) -> torch.Tensor:
    return score_pack(model, packed).losses.sum()


def alone(model: torch.nn.Module, example: TokenExample) -> torch.Tensor:
    """Summed loss of one example's completion, by the library's own forward pass."""
    ids = torch.tensor([example.prompt + example.completion])
    logits = model(input_ids=ids).logits[0, len(example.prompt) - 1 : -1]
    return functional.cross_entropy(logits.float(), ids[0, len(example.prompt) :], reduction="sum")


def test_a_pack_has_the_loss_of_its_examples_alone(folder: Path) -> None:
    model = ours(folder)
    examples, _ = tokenize(model.tokenizer, rows(), 200)
    packed = loss_of(model, pack(flat(examples)))
    separate = sum(alone(plain(folder), example) for (example,) in examples)
    assert packed.item() == pytest.approx(separate.item(), rel=1e-5)


@pytest.mark.parametrize("limit", [16, 60, 10_000])
def test_the_size_of_packs_changes_nothing(folder: Path, limit: int) -> None:
    model = ours(folder)
    examples, _ = tokenize(model.tokenizer, rows(), 200)
    whole = score_set(model, Supervised(model), examples, 10_000)
    cut = score_set(model, Supervised(model), examples, limit)
    assert cut.mean_loss == pytest.approx(whole.mean_loss, rel=1e-6)
    assert (cut.correct, cut.labels) == (whole.correct, whole.labels)


def test_gradients_equal_those_of_peft(folder: Path, tmp_path: Path) -> None:
    model = ours(folder)
    examples, _ = tokenize(model.tokenizer, rows(), 200)
    adapter = shaken(model, Recipe(rank=4, alpha=8))
    save_for_peft(tmp_path, adapter, adapter.tensors(), "tiny")
    model.whole.train()
    for group in split_batch(examples, 60):
        loss_of(model, pack(flat(group))).backward()
    peft = PeftModel.from_pretrained(plain(folder), tmp_path, is_trainable=True)
    peft.eval()
    sum(alone(peft, example) for (example,) in examples).backward()
    theirs = {name.replace(".default", ""): p.grad for name, p in peft.named_parameters() if p.requires_grad}
    own = {name: p.grad for name, p in adapter.named_parameters()}
    assert own.keys() == theirs.keys()
    for name, gradient in own.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-4, atol=1e-5, msg=name)


def test_query_key_and_value_made_at_once_are_those_made_one_by_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses and gradients, after passes without gradients too and after a step of the optimiser that training uses."""
    examples, _ = tokenize(ours(folder).tokenizer, rows(), 100)
    packed = pack(flat(examples))

    def run(model: BaseModel, adapter: Adapter) -> list[torch.Tensor]:
        found = []
        optimizer = torch.optim.AdamW([p for _, p in adapter.named_parameters()], lr=0.01, eps=0.1, fused=True)
        for _ in range(2):
            score_set(model, Supervised(model), examples, 512)
            loss = loss_of(model, packed)
            loss.backward()
            found += [loss.detach(), *(parameter.grad.clone() for _, parameter in adapter.named_parameters())]
            optimizer.step()
            optimizer.zero_grad()
        return found

    together = ours(folder)
    adapter = shaken(together, Recipe(rank=4, alpha=12.0))
    assert sum(isinstance(module.forward, FusedAttention) for module in together.whole.modules()) == 2
    at_once = run(together, adapter)
    monkeypatch.setattr("services.training.lora.adapter.fuse_attention", lambda *_: None)
    apart = ours(folder)
    one_by_one = run(apart, shaken(apart, Recipe(rank=4, alpha=12.0)))
    for fused, single in zip(at_once, one_by_one, strict=True):
        torch.testing.assert_close(fused, single, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "difference", [{"dropout": 0.1}, {"dora": True}, {"targets": ("q_proj", "v_proj")}, {"targets": ("k_proj",)}]
)
def test_leaves_attention_alone_that_it_cannot_stand_for(folder: Path, difference: dict[str, object]) -> None:
    model = ours(folder)
    shaken(model, Recipe(rank=4).model_copy(update=difference))
    assert not any(isinstance(module.forward, FusedAttention) for module in model.whole.modules())


def test_bfloat16_stays_close_to_float32(folder: Path) -> None:
    examples, _ = tokenize(AutoTokenizer.from_pretrained(folder), rows(), 200)
    wide, narrow = (
        score_set(model, Supervised(model), examples, 512) for model in (ours(folder), ours(folder, torch.bfloat16))
    )
    assert narrow.mean_loss == pytest.approx(wide.mean_loss, rel=0.02)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_what_noise_adds_is_measured_on_the_same_examples_and_draws_nothing(folder: Path, dropout: float) -> None:
    """Label smoothing is no noise: without dropout nothing is added."""
    model = ours(folder)
    examples, _ = tokenize(model.tokenizer, rows(), 200)
    shaken(model, Recipe(rank=4, dropout=dropout))
    objective = Supervised(model, Noise(label_smoothing=0.3))
    plain = score_set(model, objective, examples, 60)
    model.whole.train()
    before = torch.get_rng_state()
    calm, added = score_noise(model, objective, examples, 60)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.whole.training
    assert calm == plain
    assert (added.weight, added.examples, added.computed) == (plain.weight, plain.examples, plain.computed)
    if dropout == 0:
        assert (added.loss, added.standard_error) == (0, 0)
        return
    parts = split_batch(examples, 60)
    with torch.no_grad():
        disturbed = [loss for part in parts for loss in Supervised(model).loss(part).each]
        model.whole.eval()
        costs = np.array(disturbed) - [loss for part in parts for loss in Supervised(model).loss(part).each]
    weights = np.array([len(example.completion) for part in parts for example in flat(part)])
    mean = costs.sum() / weights.sum()
    spread = ((costs - mean * weights) ** 2).sum() * len(costs) / (len(costs) - 1)
    assert (added.mean_loss, added.standard_error) == (
        pytest.approx(mean, rel=1e-4),
        pytest.approx(spread**0.5 / weights.sum(), rel=1e-4),
    )


def test_dropout_acts_in_training_only_and_has_the_right_gradient(folder: Path) -> None:
    model = ours(folder)
    examples, _ = tokenize(model.tokenizer, rows(), 200)
    adapter = shaken(model, Recipe(rank=4, dropout=0.5))
    packed = pack(flat(examples))
    model.whole.eval()
    assert loss_of(model, packed).item() == loss_of(model, packed).item()
    model.whole.train()

    def loss() -> torch.Tensor:
        torch.manual_seed(5)
        return loss_of(model, packed)

    assert loss().item() != loss_of(model, packed).item()
    parameter = adapter.layers["model.layers.0.mlp.up_proj"].lora_a
    loss().backward()
    direction = parameter.grad / parameter.grad.norm()
    step = 3e-3
    with torch.no_grad():
        parameter.add_(direction, alpha=step)
        above = loss().item()
        parameter.add_(direction, alpha=-2 * step)
        below = loss().item()
    assert (above - below) / (2 * step) == pytest.approx((parameter.grad * direction).sum().item(), rel=0.02)


def test_the_saved_adapter_loads_in_peft_with_the_same_logits(folder: Path, tmp_path: Path) -> None:
    model = ours(folder)
    adapter = shaken(model, Recipe(rank=4, alpha=8))
    save_for_peft(tmp_path, adapter, adapter.tensors(), "tiny")
    model.whole.set_attn_implementation("sdpa")
    ids = torch.tensor([[1, 40, 50, 60, 2]])
    peft = PeftModel.from_pretrained(plain(folder), tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(model.whole.eval()(input_ids=ids).logits, peft(input_ids=ids).logits)


def test_equal_adapters_give_equal_files(folder: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        adapter = shaken(ours(folder), Recipe(rank=4))
        save_for_peft(tmp_path / name, adapter, adapter.tensors(), "tiny")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_an_adapter_that_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    adapter = attach(ours(folder).whole, Recipe(rank=4))
    save_for_peft(tmp_path, adapter, adapter.tensors(), "tiny")
    assert shape_of(tmp_path)["rank"] == 4
    with pytest.raises(AdapterMismatch, match="does not fit"):
        attach(ours(folder).whole, Recipe(rank=8)).load(load_weights(tmp_path))


def test_targets_choose_layers_by_name(folder: Path) -> None:
    some = attach(ours(folder).whole, Recipe(rank=2, targets=("q_proj", "v_proj")))
    assert {path.rpartition(".")[2] for path in some.layers} == {"q_proj", "v_proj"}
    every = attach(ours(folder).whole, Recipe(rank=2))
    assert len(every.layers) == 2 * 7


@pytest.mark.parametrize(
    ("targets", "named"),
    [(("q_porj",), "q_porj"), (("q_proj", "q_porj", "v_proj", "up"), "q_porj, up"), ((), "no layer")],
)
def test_refuses_targets_that_the_base_model_has_not(folder: Path, targets: tuple[str, ...], named: str) -> None:
    with pytest.raises(InvalidRecipe) as refused:
        attach(ours(folder).whole, Recipe(targets=targets))
    assert refused.value.param == "recipe.targets"
    assert f"asks for {named}, but" in refused.value.message
    every = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    assert refused.value.message.endswith(f"linear layers are {every}.")


def test_names_the_adapter_to_continue_from_where_its_targets_do_not_fit(folder: Path, tmp_path: Path) -> None:
    """Those of an uploaded adapter may be whole names, which a recipe's are not."""
    adapter = attach(ours(folder).whole, Recipe(rank=4))
    save_for_peft(tmp_path, adapter, adapter.tensors(), "tiny")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    whole_name = config | {"target_modules": ["model.layers.0.mlp.up_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(whole_name))
    with pytest.raises(AdapterMismatch, match="up_proj, but the base model") as refused:
        make_trainable(ours(folder), Recipe().model_copy(update=shape_of(tmp_path)), tmp_path)
    assert refused.value.param == "init_adapter"


def test_a_completion_is_the_answer_and_the_end_of_turn(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ((example,),), _ = tokenize(tokenizer, [Row(({"role": "user", "content": "q"},), "yes")], 100)
    assert tokenizer.convert_ids_to_tokens(list(example.completion)) == ["y", "e", "s", "</s>"]
    serving = tokenizer.apply_chat_template(
        [{"role": "user", "content": "q"}], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert list(example.prompt) == serving


def test_leaves_out_what_is_too_long_and_never_cuts(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lengths = sorted(len(example) for (example,) in tokenize(tokenizer, rows(), 10_000)[0])
    kept, left_out = tokenize(tokenizer, rows(), lengths[-2])
    assert sorted(len(example) for (example,) in kept) == lengths[:-1]
    assert left_out == lengths[-1:]
    with pytest.raises(NoTrainingExamples, match="max_length 8"):
        tokenize(tokenizer, rows(), 8)


def conversation() -> Row:
    turns = [("user", "one?"), ("assistant", "1"), ("user", "two?"), ("assistant", "2"), ("user", "three?")]
    messages = tuple({"role": role, "content": content} for role, content in turns)
    return Row(messages, "3", also_learned=(1,), line=4)


def test_every_learned_turn_has_a_completion_and_the_conversation_is_counted_once(folder: Path) -> None:
    model = ours(folder)
    ((first, last),), _ = tokenize(model.tokenizer, [conversation()], 200)
    spoken = [model.tokenizer.convert_ids_to_tokens(list(turn.completion)) for turn in (first, last)]
    assert spoken == [["1", "</s>"], ["3", "</s>"]], "the turn of weight 0 is read and not learned"
    assert last.prompt[: len(first.prompt) + 2] == first.prompt + first.completion
    text = "user:one? assistant:1 user:two? assistant:2 user:three? assistant:3"
    turns = text.split(" ")
    assert Supervised(model).tokens((first, last)) == sum(map(len, turns)) + 2 * len(turns) + len(turns) - 1
    packed = pack([first, last])
    assert packed.label_count == 4
    assert (packed.input_ids != 0).sum() == len(last.tokens), "the shared turns are computed once"


def test_a_conversation_has_the_loss_of_its_turns_alone(folder: Path) -> None:
    model = ours(folder)
    groups, _ = tokenize(model.tokenizer, [conversation(), rows()[0]], 200)
    total, tally, each = Supervised(model).loss(groups)
    assert sum(each) == pytest.approx(total.item(), rel=1e-5)
    assert total.item() == pytest.approx(sum(alone(plain(folder), one).item() for one in flat(groups)), rel=1e-5)
    assert tally.weight == Supervised(model).weight(groups) == tally.labels


def test_names_the_line_that_the_chat_template_refuses(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{{ raise_exception('system messages are not known') }}"
    with pytest.raises(InvalidTrainingFile, match=r"line 4: .*system messages are not known"):
        tokenize(tokenizer, [conversation()], 200)
