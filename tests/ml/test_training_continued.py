"""Continued pretraining: every token of a document is learned once, with the loss that transformers computes."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.training.lora.base_model import BaseModel, prepare
from services.training.lora.loop import Training
from services.training.lora.objectives import ContinuedPretraining, score_set
from services.training.lora.packing import Group
from services.training.lora.tuned import make_trainable
from services.training.lora.windows import end_of_text, windows_of
from services.training.order import Stepped
from services.training.recipe import Recipe
from tests.factories.tiny_model import make_tiny_model

TEXTS = ["The pump is switched off. The valve stays open.", "a", "Nothing is lost " * 12]


class OneThread:
    def threads(self) -> int:
        return 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def load(folder: Path) -> BaseModel:
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return prepare(whole, AutoTokenizer.from_pretrained(folder))


@pytest.mark.parametrize("max_length", [8, 30, 500])
def test_windows_hold_every_token_and_each_documents_end_once(folder: Path, max_length: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.eos_token_id
    groups = windows_of(tokenizer, TEXTS, max_length)
    assert all(len(window) <= max_length for (window,) in groups)
    learned = [token for (window,) in groups for token in window.completion]
    ids = tokenizer(TEXTS, add_special_tokens=False)["input_ids"]
    assert learned == [token for text in ids for token in [*text, end]]
    before = [token for text in ids for token in [end, *text]]
    seen = [token for (window,) in groups for token in window.tokens]
    assert seen == before, "each token is read where the next one is due, and nothing runs over a document's end"


def test_a_document_ends_with_the_token_of_pretraining_where_a_chat_model_has_it(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert end_of_text(tokenizer) == tokenizer.eos_token_id
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|endoftext|>"]})
    assert end_of_text(tokenizer) == tokenizer.convert_tokens_to_ids("<|endoftext|>") != tokenizer.eos_token_id


@pytest.mark.parametrize("micro_batch_tokens", [16, 10_000])
def test_the_loss_is_that_of_transformers(folder: Path, micro_batch_tokens: int) -> None:
    model = load(folder)
    groups = windows_of(model.tokenizer, TEXTS, 40)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    total, tokens = 0.0, 0
    for (window,) in groups:
        ids = torch.tensor([[*window.prompt, *window.completion]])
        with torch.inference_mode():
            loss = plain(input_ids=ids, labels=ids).loss.item()
        one = score_set(model, ContinuedPretraining(model), [(window,)], micro_batch_tokens)
        assert one.mean_loss == pytest.approx(loss, rel=1e-5)
        total, tokens = total + loss * len(window.completion), tokens + len(window.completion)
    tally = score_set(model, ContinuedPretraining(model), groups, micro_batch_tokens)
    assert tally.mean_loss == pytest.approx(total / tokens, rel=1e-5)
    assert tally.weight == tokens == sum(map(ContinuedPretraining(model).tokens, groups))


def sentences(subjects: str, count: int) -> list[str]:
    """A small language: who does what to whom, in an order that no document repeats."""
    verbs, objects = ["opens", "closes", "checks"], ["valve", "pump", "tank", "door"]
    return [
        " ".join(
            f"{subjects[(n * 7 + k) % len(subjects)]} {verbs[(n + k) % 3]} the {objects[(n * k) % 4]}."
            for k in range(6)
        )
        for n in range(count)
    ]


def test_a_held_out_document_of_the_same_language_gets_likelier(folder: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        objective="continued_pretraining",
        epochs=12,
        batch_size=4,
        rank=8,
        learning_rate=0.01,
        max_length=64,
        seed=1,
        patience=None,
    )
    torch.manual_seed(recipe.seed)
    model = load(folder)
    learned, held = (windows_of(model.tokenizer, texts, 64) for texts in (sentences("ABCD", 8), sentences("DCBA", 3)))
    steps: list[Stepped] = []
    training = Training(
        model=model,
        tuned=make_trainable(model, recipe),
        objective=ContinuedPretraining(model),
        recipe=recipe,
        train=learned,
        validation=held,
        base_model="tiny",
        state_dir=tmp_path / "states",
        checkpoint_dir=tmp_path / "checkpoints",
        data_sha256="data",
        emit=lambda event: steps.append(event) if isinstance(event, Stepped) else None,
        should_stop=lambda: False,
        share=OneThread(),
    )
    before = score_set(model, training.objective, held, 512).mean_loss
    finished = training.run()
    assert finished.valid_loss is not None
    assert math.exp(finished.valid_loss) < 0.2 * math.exp(before), "perplexity"
    assert finished.trained_tokens == sum(step.tokens for step in steps) == 12 * learned_tokens(learned)


def learned_tokens(groups: list[Group]) -> int:
    return sum(len(window.completion) for (window,) in groups)
