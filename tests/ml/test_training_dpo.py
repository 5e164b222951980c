"""DPO computes the paper's loss against the frozen base, learns to prefer, and resumes as if nothing had happened."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.training.child import run_child
from services.training.errors import TrainingChildStopped
from services.training.lora.adapter import Adapter, attach, save_for_peft
from services.training.lora.base_model import BaseModel, prepare
from services.training.lora.examples import Row, tokenize
from services.training.lora.loop import Training
from services.training.lora.objectives import Preference, score_set
from services.training.lora.packing import Group, TokenExample
from services.training.lora.reference import cached_reference, likelihoods
from services.training.order import ChildEvent, Finished, StateSaved, Stepped, TrainingOrder
from services.training.recipe import Recipe
from services.training.settings import child_environment
from tests.factories.tiny_model import make_tiny_model

BETA = 0.3
RECIPE = Recipe(
    objective="dpo", beta=BETA, epochs=6, batch_size=3, rank=4, save_steps=2, learning_rate=0.01, patience=None, seed=2
)


class Killed(BaseException):
    """Stands for kill -9: nothing catches it, nothing cleans up."""


class OneThread:
    def threads(self) -> int:
        return 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def load(folder: Path) -> BaseModel:
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return prepare(whole, AutoTokenizer.from_pretrained(folder))


def pairs(model: BaseModel, count: int = 6) -> list[Group]:
    rows = [Row(({"role": "user", "content": f"say {n}"},), f"yes {n}", rejected=f"no, {n}") for n in range(count)]
    return tokenize(model.tokenizer, rows, 200)[0]


def shaken(model: BaseModel) -> Adapter:
    """An adapter whose B is not zero, so that policy and reference differ."""
    torch.manual_seed(1)
    adapter = attach(model.whole, Recipe(rank=4, alpha=8))
    with torch.no_grad():
        for layer in adapter.layers.values():
            layer.lora_b.normal_(std=0.1)
    return adapter


def references(model: BaseModel, groups: list[Group]) -> dict[Group, tuple[float, float]]:
    return {
        group: (preferred, rejected)
        for group, (preferred, rejected) in zip(groups, likelihoods(model, groups, 512).tolist(), strict=True)
    }


def alone(model: torch.nn.Module, example: TokenExample) -> torch.Tensor:
    """The log-likelihood of one completion, by the library's own forward pass."""
    ids = torch.tensor([example.prompt + example.completion])
    logits = model(input_ids=ids).logits[0, len(example.prompt) - 1 : -1]
    return -functional.cross_entropy(logits.float(), ids[0, len(example.prompt) :], reduction="sum")


def by_hand(peft: Any, group: Group) -> tuple[torch.Tensor, torch.Tensor]:
    """The paper's equation 7 for one pair and its reward margin, with the adapter disabled as the reference."""
    policy = [alone(peft, example) for example in group]
    with peft.disable_adapter(), torch.no_grad():
        reference = [alone(peft, example) for example in group]
    margin = BETA * ((policy[0] - reference[0]) - (policy[1] - reference[1]))
    return -torch.log(1 / (1 + torch.exp(-margin))), margin


@pytest.mark.parametrize("limit", [16, 60, 10_000])
def test_the_loss_of_a_pair_is_the_formula_whatever_it_is_packed_with(folder: Path, tmp_path: Path, limit: int) -> None:
    base = load(folder)
    groups = pairs(base)
    reference = references(base, groups)
    model = load(folder)
    adapter = shaken(model)
    save_for_peft(tmp_path, adapter, adapter.tensors(), "tiny")
    tally = score_set(model, Preference(model, BETA, reference), groups, limit)

    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    peft = PeftModel.from_pretrained(plain, tmp_path).eval()
    losses, margins = zip(*(by_hand(peft, group) for group in groups), strict=True)
    assert tally.mean_loss == pytest.approx(sum(losses).item() / len(groups), rel=1e-4)
    assert tally.reward_margin == pytest.approx(sum(margins).item() / len(groups), rel=1e-3, abs=1e-5)
    assert tally.reward_accuracy == sum(margin > 0 for margin in margins).item() / len(groups)
    assert tally.labels == sum(len(group[0].completion) for group in groups)


def test_its_gradient_is_that_of_the_formula(folder: Path, tmp_path: Path) -> None:
    base = load(folder)
    groups = pairs(base, 3)
    reference = references(base, groups)
    model = load(folder)
    adapter = shaken(model)
    save_for_peft(tmp_path, adapter, adapter.tensors(), "tiny")
    model.whole.train()
    Preference(model, BETA, reference).loss(groups)[0].backward()

    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    peft = PeftModel.from_pretrained(plain, tmp_path, is_trainable=True).eval()
    sum(by_hand(peft, group)[0] for group in groups).backward()
    theirs = {name.replace(".default", ""): p.grad for name, p in peft.named_parameters() if p.requires_grad}
    for name, parameter in adapter.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name], rtol=1e-3, atol=1e-5, msg=name)


def test_starts_undecided_at_the_reference(folder: Path) -> None:
    """A fresh adapter changes nothing: the loss is log 2 and no answer has a reward."""
    model = load(folder)
    groups = pairs(model)
    reference = references(model, groups)
    attach(model.whole, RECIPE)
    tally = score_set(model, Preference(model, BETA, reference), groups, 512)
    assert tally.mean_loss == pytest.approx(math.log(2), abs=1e-5)
    assert tally.reward_margin == pytest.approx(0, abs=1e-4)


def test_counts_the_tokens_of_both_answers_with_their_prompts(folder: Path) -> None:
    model = load(folder)
    (group,) = pairs(model, 1)
    prompt, preferred, rejected = "<s>user:say 0</s>\n<s>assistant:", "yes 0", "no, 0"
    specials = 3 + 1  # <s>, </s>, <s> in the prompt, </s> after each answer
    assert Preference(model, BETA, {}).tokens(group) == 2 * (
        len(prompt.replace("<s>", "").replace("</s>", "")) + specials
    ) + len(preferred) + len(rejected)


def test_asks_the_reference_model_once(folder: Path, tmp_path: Path) -> None:
    model = load(folder)
    groups = pairs(model)
    passes: list[int] = []

    def ask(identity: str) -> dict[Group, tuple[float, float]]:
        found = cached_reference(
            tmp_path / "reference.safetensors",
            identity=identity,
            model=model,
            pairs=[*groups, groups[0]],
            micro_batch_tokens=60,
            check=lambda: passes.append(1),
        )
        return dict(found)

    first = ask("data")
    assert passes
    assert first == references(model, groups)
    before = len(passes)
    shaken(model)
    assert ask("data") == first, "what was kept is the model as it was before training"
    assert len(passes) == before
    assert ask("other data") != first
    assert len(passes) > before


class Runs:
    """Starts runs over the same model and pairs, as the child does; `steps` is the first word of each step."""

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder, self.work = folder, work
        self.steps: dict[int, Stepped] = {}

    def start(self, kill_after: int | None = None) -> Training:
        torch.manual_seed(RECIPE.seed)
        model = load(self.folder)
        groups = pairs(model, 8)
        adapter = attach(model.whole, RECIPE)
        self.work.mkdir(exist_ok=True)
        reference = cached_reference(
            self.work / "reference.safetensors",
            identity="data",
            model=model,
            pairs=groups,
            micro_batch_tokens=512,
            check=lambda: None,
        )

        def hear(event: object) -> None:
            if isinstance(event, Stepped):
                self.steps.setdefault(event.step, event)
                if event.step == kill_after:
                    raise Killed

        training = Training(
            model=model,
            tuned=adapter,
            objective=Preference(model, BETA, reference),
            recipe=RECIPE,
            train=groups[:6],
            validation=groups[6:],
            base_model="tiny",
            state_dir=self.work / "states",
            checkpoint_dir=self.work / "checkpoints",
            data_sha256="data",
            emit=hear,
            should_stop=lambda: False,
            share=OneThread(),
        )
        training.resume()
        return training


def test_learns_to_prefer_and_goes_on_after_a_kill_as_if_nothing_had_happened(folder: Path, tmp_path: Path) -> None:
    whole = Runs(folder, tmp_path / "whole")
    finished = whole.start().run()
    first, last = whole.steps[1], whole.steps[finished.steps]
    assert last.train_loss < first.train_loss
    assert (first.train_reward_margin, last.train_reward_accuracy) == (pytest.approx(0, abs=1e-4), 1.0)
    assert last.train_reward_margin is not None
    assert last.train_reward_margin > 0.5
    assert last.valid_reward_margin is not None
    assert last.full_valid_loss == last.valid_loss

    broken = Runs(folder, tmp_path / "broken")
    with pytest.raises(Killed):
        broken.start(kill_after=7).run()
    resumed = broken.start()
    assert resumed.progress.step == 6
    again = resumed.run()
    assert again.trained_tokens == finished.trained_tokens
    for step, said in whole.steps.items():
        assert broken.steps[step].train_loss == pytest.approx(said.train_loss, abs=1e-6)
        assert broken.steps[step].train_reward_margin == pytest.approx(said.train_reward_margin, abs=1e-5)
        assert broken.steps[step].valid_loss == pytest.approx(said.valid_loss, abs=1e-6)


@pytest.mark.models
def test_raises_the_margin_of_the_real_model(base_model_dir: Path, tmp_path: Path) -> None:
    """Preferring "Aye." to "Yes." on questions; a child stopped after its first state goes on from it."""
    questions = [f"Is {a} plus {b} equal to {a + b}?" for a in range(2, 6) for b in range(2, 4)]
    rows = [
        {"messages": [{"role": "user", "content": question}], "answer": "Aye, it is.", "rejected": "Yes, it is."}
        for question in questions
    ]
    lines = [json.dumps(row) + "\n" for row in rows]
    (tmp_path / "train.jsonl").write_text("".join(lines[:6]))
    (tmp_path / "validation.jsonl").write_text("".join(lines[6:]))
    recipe = Recipe(
        objective="dpo", max_steps=10, epochs=100, batch_size=6, learning_rate=2e-4, save_steps=4, patience=None
    )
    order = TrainingOrder(
        base_model=base_model_dir.name,
        model_dir=base_model_dir,
        train_file=tmp_path / "train.jsonl",
        validation_file=tmp_path / "validation.jsonl",
        recipe=recipe,
        state_dir=tmp_path / "states",
        checkpoint_dir=tmp_path / "checkpoints",
        output_dir=tmp_path / "output",
        home=tmp_path / "home",
        data_sha256="data",
    )
    (tmp_path / "order.json").write_text(order.model_dump_json())
    events: list[ChildEvent] = []

    def run(wish: Any) -> Finished:
        return run_child(
            tmp_path / "order.json",
            environment=child_environment(),
            on_event=events.append,
            wish=wish,
            grace_seconds=60,
        )

    with pytest.raises(TrainingChildStopped):
        run(lambda: "pause" if any(isinstance(event, StateSaved) for event in events) else None)
    run(lambda: None)
    steps = {event.step: event for event in events if isinstance(event, Stepped)}
    assert sorted(steps) == list(range(1, 11))
    first, last = steps[1], steps[10]
    assert first.train_loss == pytest.approx(math.log(2), abs=0.02)
    assert last.train_loss < 0.5 * first.train_loss
    assert last.valid_reward_margin is not None
    assert last.valid_reward_margin > 0.5
    assert last.valid_reward_accuracy == 1.0
