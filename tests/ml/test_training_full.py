"""Full fine-tuning computes what plain AdamW on the plain model computes, resumes exactly, and leaves a whole model."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.generation.answering import AdapterRef
from services.generation.engine import Engine
from services.training.errors import AdapterMismatch, InvalidRecipe
from services.training.lora.adapter import attach, save_for_peft
from services.training.lora.base_model import prepare
from services.training.lora.examples import tokenize
from services.training.lora.full import FullWeights
from services.training.lora.objectives import Supervised, flat
from services.training.lora.tuned import check_start, make_trainable
from services.training.recipe import Recipe
from tests.factories.tiny_model import make_tiny_model
from tests.ml.test_generation_engine import asked, collect, one_thread
from tests.ml.test_training_lora import alone, plain, rows
from tests.ml.test_training_resume import RECIPE, Killed, Runs

FULL = Recipe.from_differences(
    {
        "tune": "full",
        "learning_rate": 1e-3,
        "epochs": 4,
        "batch_size": 4,
        "save_steps": 3,
        "evals_per_epoch": 2,
        "seed": 3,
        "neftune_alpha": 5.0,
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def test_steps_are_those_of_plain_adamw_on_every_weight(folder: Path, tmp_path: Path) -> None:
    changes = {"schedule": "constant", "warmup_ratio": 0.0, "max_grad_norm": 1e9, "batch_size": 12, "max_steps": 3}
    recipe = FULL.model_copy(update=changes | {"neftune_alpha": 0.0, "weight_decay": 0.1})
    training = Runs(folder, tmp_path).start(recipe)
    theirs = plain(folder)
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=1e-3
    )
    examples = flat(training.train)
    for _ in range(3):
        loss = sum(alone(theirs, example) for example in examples) / sum(len(e.completion) for e in examples)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    training.run()
    own = dict(training.tuned.named_parameters())
    assert own.keys() == dict(theirs.named_parameters()).keys()
    for name, weight in theirs.named_parameters():
        torch.testing.assert_close(own[name], weight, rtol=1e-3, atol=1e-4, msg=name)


def test_bfloat16_weights_are_rounded_from_a_float32_copy_that_takes_the_steps(folder: Path) -> None:
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model = prepare(whole, AutoTokenizer.from_pretrained(folder), frozen=False)
    weights = FullWeights(model)
    optimizer = torch.optim.SGD([p for _, p in weights.named_parameters()], lr=1.0)
    examples, _ = tokenize(model.tokenizer, rows(), 200)
    name = "model.layers.0.mlp.up_proj.weight"
    before = dict(weights.named_parameters())[name].detach().clone()
    for part in (examples[:2], examples[2:]):
        Supervised(model).loss(part)[0].backward()
    assert all(p.grad is None for p in model.whole.parameters()), "each gradient was handed over at once"
    gradient = dict(weights.named_parameters())[name].grad.clone()
    wide = plain(folder)
    sum(alone(wide, example) for example in flat(examples)).backward()
    expected = dict(wide.named_parameters())[name].grad
    assert torch.nn.functional.cosine_similarity(gradient.flatten(), expected.flatten(), dim=0) > 0.99
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad.mul_(1e-6)
    optimizer.step()
    weights.took_step()
    master = dict(weights.named_parameters())[name]
    assert not torch.equal(master, before), "a step too small for bfloat16 is not lost"
    torch.testing.assert_close(model.whole.get_parameter(name), master.bfloat16(), rtol=0, atol=0)


def test_a_resumed_run_equals_the_unbroken_one(folder: Path, tmp_path: Path) -> None:
    whole, broken = Runs(folder, tmp_path / "whole"), Runs(folder, tmp_path / "broken")
    whole.start(FULL).run()

    def kill(event: object) -> None:
        if getattr(event, "event", "") == "step" and getattr(event, "step", 0) == 5:
            raise Killed

    with pytest.raises(Killed):
        broken.start(FULL, on_event=kill).run()
    again = broken.start(FULL)
    assert again.progress.step == 3
    again.run()
    for step, said in whole.steps.items():
        assert broken.steps[step].train_loss == pytest.approx(said.train_loss, abs=1e-6)
        assert broken.steps[step].valid_loss == pytest.approx(said.valid_loss, abs=1e-6)


def test_checkpoints_are_whole_models_that_can_be_continued_from(folder: Path, tmp_path: Path) -> None:
    runs = Runs(folder, tmp_path)
    training = runs.start(FULL.model_copy(update={"max_steps": 3}))
    training.run()
    made = runs.kept[3].folder
    library = AutoModelForCausalLM.from_pretrained(made)
    ids = torch.tensor([[1, 40, 50, 60, 2]])
    training.model.whole.set_attn_implementation("sdpa")
    with torch.inference_mode():
        found = training.model.whole.eval()(input_ids=ids).logits
        torch.testing.assert_close(library(input_ids=ids).logits, found)
        assert not torch.allclose(plain(folder)(input_ids=ids).logits, found, atol=1e-3)
    ref = AdapterRef("tuned", made)
    assert ref.is_whole_model
    engine = Engine(ref.folder, share=one_thread, dtype=torch.float32)
    engine.start()
    try:
        said, finished = collect(engine.submit(asked("1+2")))
    finally:
        engine.stop()
    tokenizer = AutoTokenizer.from_pretrained(made)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1+2"}], add_generation_prompt=True, tokenize=False
    )
    inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    answer = library.generate(**inputs, max_new_tokens=20, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert said == tokenizer.decode(answer, skip_special_tokens=True)
    assert finished.completion_tokens > 0
    base = prepare(AutoModelForCausalLM.from_pretrained(folder), training.model.tokenizer, frozen=False)
    check_start(FULL, made)
    continued = make_trainable(base, FULL, made).tensors()
    for name, weight in training.tuned.tensors().items():
        torch.testing.assert_close(continued[name], weight, rtol=0, atol=0)


def test_refuses_to_continue_from_weights_of_another_kind(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterMismatch, match="a whole model, and the recipe tunes lora"):
        check_start(Recipe(), folder)
    model = prepare(AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
    adapter = attach(model.whole, Recipe(rank=2))
    save_for_peft(tmp_path, adapter, adapter.tensors(), "tiny")
    with pytest.raises(AdapterMismatch, match="an adapter, and the recipe tunes full") as refused:
        check_start(FULL, tmp_path)
    assert refused.value.param == "recipe.tune"
    check_start(RECIPE, tmp_path)


def test_a_field_of_adapters_is_refused_and_the_learning_rate_is_full_tunings_own() -> None:
    with pytest.raises(InvalidRecipe, match="rank is for adapters") as refused:
        Recipe.from_differences({"tune": "full", "rank": 4})
    assert refused.value.param == "recipe.rank"
    assert Recipe.from_differences({"tune": "full"}).learning_rate == 5e-5
    assert FULL.learning_rate == 1e-3
