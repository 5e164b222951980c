"""Ways of training beyond plain LoRA: each computes what its paper and peft say, and is noise-free in validation."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.optimizers import create_loraplus_optimizer
from torch.nn import functional

from services.training.lora.adapter import attach, load_weights, save_for_peft, shape_of
from services.training.lora.examples import tokenize
from services.training.lora.noise import Noise, embedding_noise
from services.training.lora.objectives import Supervised, flat, score_set
from services.training.lora.packing import pack
from services.training.recipe import Recipe
from tests.factories.tiny_model import make_tiny_model
from tests.ml.test_training_lora import alone, ours, plain, rows, shaken
from tests.ml.test_training_resume import RECIPE, Runs

IDS = torch.tensor([[1, 40, 50, 60, 2]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("kind", [{"rslora": True}, {"dora": True}, {"rslora": True, "dora": True}], ids="+".join)
def test_kinds_of_lora_load_in_peft_with_the_same_logits_and_can_be_continued(
    folder: Path, tmp_path: Path, kind: dict[str, bool]
) -> None:
    model, recipe = ours(folder), Recipe(rank=4, alpha=6).model_copy(update=kind)
    adapter = shaken(model, recipe)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if name.endswith("magnitude_vector"):
                parameter.mul_(torch.rand_like(parameter) + 0.5)
    save_for_peft(tmp_path, adapter, adapter.tensors(), "tiny")
    model.whole.set_attn_implementation("sdpa")
    peft = PeftModel.from_pretrained(plain(folder), tmp_path)
    with torch.inference_mode():
        found = model.whole.eval()(input_ids=IDS).logits
        torch.testing.assert_close(found, peft(input_ids=IDS).logits)
    again = ours(folder)
    start = attach(again.whole, Recipe().model_copy(update=shape_of(tmp_path)))
    start.load(load_weights(tmp_path))
    again.whole.set_attn_implementation("sdpa")
    with torch.inference_mode():
        torch.testing.assert_close(again.whole.eval()(input_ids=IDS).logits, found)


@pytest.mark.parametrize("dora", [False, True])
def test_lora_plus_and_dora_step_as_peft_steps(folder: Path, tmp_path: Path, dora: bool) -> None:
    """Three steps of one batch each, against peft's own layers and LoRA+ optimiser on the same model."""
    recipe = RECIPE.model_copy(update={"lora_plus_ratio": 8.0, "batch_size": 12, "dropout": 0.0, "max_steps": 3})
    recipe = recipe.model_copy(update={"schedule": "constant", "warmup_ratio": 0.0, "max_grad_norm": 1e9})
    recipe = recipe.model_copy(update={"dora": dora, "weight_decay": 0.0})
    training = Runs(folder, tmp_path).start(recipe)
    start = tmp_path / "start"
    start.mkdir()
    save_for_peft(start, training.tuned, training.tuned.tensors(), "tiny")
    peft = PeftModel.from_pretrained(plain(folder), start, is_trainable=True).eval()
    optimizer = create_loraplus_optimizer(
        peft, torch.optim.AdamW, lr=recipe.learning_rate, loraplus_lr_ratio=8.0, weight_decay=0.0
    )
    examples = flat(training.train)
    for _ in range(3):
        loss = sum(alone(peft, example) for example in examples) / sum(len(e.completion) for e in examples)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    training.run()
    theirs = get_peft_model_state_dict(peft, save_embedding_layers=False)
    for name, own in training.tuned.named_parameters():
        torch.testing.assert_close(own, theirs[name], rtol=1e-3, atol=2e-4, msg=name)


def test_label_smoothing_is_in_the_training_loss_only(folder: Path) -> None:
    model = ours(folder)
    examples, _ = tokenize(model.tokenizer, rows(), 200)
    shaken(model, Recipe(rank=4))
    smoothed = Supervised(model, Noise(label_smoothing=0.3))
    plainly = score_set(model, Supervised(model), examples, 10_000)
    assert score_set(model, smoothed, examples, 10_000).loss == plainly.loss
    model.whole.train()
    expected = 0.0
    model.whole.set_attn_implementation("sdpa")
    for example in flat(examples):
        ids = torch.tensor([example.prompt + example.completion])
        logits = model.whole(input_ids=ids).logits[0, len(example.prompt) - 1 : -1]
        log_p = logits.log_softmax(-1)
        own = log_p.gather(1, ids[0, len(example.prompt) :, None]).sum()
        expected -= (0.7 * own + 0.3 * log_p.mean(-1).sum()).item()
    again = ours(folder)
    shaken(again, Recipe(rank=4))
    again.whole.train()
    total, tally, each = Supervised(again, Noise(label_smoothing=0.3)).loss(examples)
    assert sum(each) == pytest.approx(tally.loss, rel=1e-5)
    assert total.item() == pytest.approx(expected, rel=1e-4) == tally.loss
    assert tally.correct == plainly.correct


def test_neftune_is_the_papers_noise_for_each_example_of_a_pack(folder: Path) -> None:
    model = ours(folder)
    examples = flat(tokenize(model.tokenizer, rows(), 200)[0])
    packed = pack(examples)
    embedded = torch.zeros(1, len(packed.input_ids), 4096)
    torch.manual_seed(3)
    noise = embedding_noise(packed, embedded, 5.0)[0]
    last = packed.label_nodes[: packed.label_count]
    for owner, example in enumerate(examples):
        node = last[packed.owners[: packed.label_count] == owner][-1]
        path = packed.sees[node]
        assert path.sum() == len(example.tokens)
        bound = 5.0 / (len(example.tokens) * 4096) ** 0.5
        own = noise[int(node)]  # of the last place: no other example goes further
        assert own.abs().max() == pytest.approx(bound, rel=0.01)
        assert own.std() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert noise[torch.from_numpy(path)].abs().max() <= bound * 1.0001
    distinct = len({tuple(row[:4].tolist()) for row in noise})
    assert distinct == len(noise), "every place has noise of its own"


def test_neftune_is_in_training_only_and_a_pack_with_it_equals_its_noisy_examples(folder: Path) -> None:
    model = ours(folder)
    shaken(model, Recipe(rank=4))
    examples, _ = tokenize(model.tokenizer, rows(), 200)
    noisy = Supervised(model, Noise(neftune_alpha=15.0))
    quiet = score_set(model, Supervised(model), examples, 10_000).loss
    assert score_set(model, noisy, examples, 10_000).loss == quiet
    model.whole.train()
    torch.manual_seed(0)
    total = noisy.loss(examples).total
    assert total.item() != pytest.approx(quiet, rel=1e-4)
    assert total.item() != noisy.loss(examples).total.item(), "the noise is drawn anew"
    packed = pack(flat(examples))
    torch.manual_seed(0)
    embeddings = model.whole.get_input_embeddings()
    nodes = embeddings(torch.from_numpy(packed.input_ids)[None])
    nodes = (nodes + embedding_noise(packed, nodes, 15.0))[0]
    by_example, expected = torch.from_numpy(packed.label_nodes), 0.0
    model.whole.set_attn_implementation("sdpa")
    for owner, example in enumerate(flat(examples)):
        places = by_example[torch.from_numpy(packed.owners) == owner][: len(example.completion)]
        path = torch.from_numpy(packed.sees[int(places[-1])])
        logits = model.whole(inputs_embeds=nodes[path][None]).logits[0, len(example.prompt) - 1 :]
        expected += functional.cross_entropy(logits, torch.tensor(example.completion), reduction="sum").item()
    assert total.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "method",
    [
        {"rslora": True, "lora_plus_ratio": 4.0},
        {"dora": True},
        {"neftune_alpha": 10.0, "label_smoothing": 0.1},
    ],
    ids=lambda method: "+".join(method),
)
def test_a_resumed_run_equals_the_unbroken_one(folder: Path, tmp_path: Path, method: dict[str, object]) -> None:
    recipe = RECIPE.model_copy(update=method)
    whole, broken = Runs(folder, tmp_path / "whole"), Runs(folder, tmp_path / "broken")
    whole.start(recipe).run()

    class Killed(BaseException):
        pass

    def kill(event: object) -> None:
        if getattr(event, "event", "") == "step" and getattr(event, "step", 0) == 5:
            raise Killed

    with pytest.raises(Killed):
        broken.start(recipe, on_event=kill).run()
    again = broken.start(recipe)
    assert again.progress.step == 3
    again.run()
    for step, said in whole.steps.items():
        assert broken.steps[step].train_loss == pytest.approx(said.train_loss, abs=1e-6)
        assert broken.steps[step].gradient_norm == pytest.approx(said.gradient_norm, rel=1e-4)


def test_the_saved_configuration_says_what_was_trained(folder: Path, tmp_path: Path) -> None:
    adapter = attach(ours(folder).whole, Recipe(rank=4, rslora=True, dora=True))
    save_for_peft(tmp_path, adapter, adapter.tensors(), "tiny")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["use_rslora"], config["use_dora"]) == (True, True)
