"""Real trainings of a tiny model that are made sick on purpose: one kind of fault each, and healthy ones.

The base is `general_model`. A run teaches it a seventh table, under the tag Z: the answer to an uppercase letter is
another letter, whatever the digits between. That can be learned from a few hundred rows and generalises to rows with
other digits; digits allow to learn single rows by heart.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.training.doctor.facts import Facts
from services.training.errors import TrainingFailed
from services.training.lora import leaks
from services.training.lora.base_model import prepare
from services.training.lora.examples import Row, tokenize
from services.training.lora.loop import Training
from services.training.lora.noise import Noise
from services.training.lora.objectives import Supervised, flat
from services.training.lora.probe import Probe
from services.training.lora.tuned import make_trainable
from services.training.order import Stepped
from services.training.recipe import Recipe
from tests.factories.general_model import LETTERS, general_rows, question


@dataclass(frozen=True)
class Illness:
    """What is done to a healthy run: its recipe, its number of examples, and its rows; and what is to be said of it."""

    verdict: str
    recipe: dict[str, Any] = field(default_factory=dict)
    examples: int = 400
    wrong: float = 0.0
    """Share of the training answers that are drawn at random."""
    open: float = 0.0
    """Share of all answers, also of validation, that are drawn at random: what no model can know."""
    copied: float = 0.0
    """Share of the validation examples that are training examples."""
    long: float = 0.0
    """Share of all examples whose answers go on longer than max_length allows."""
    general: float = 0.25
    """As many general questions are mixed in, as a share of the others, so that nothing is forgotten."""
    contrary: bool = False
    """Rows are asked under the tags that the base knows, which have to be answered otherwise now."""


HEALTHY: dict[str, Any] = {
    "learning_rate": 1e-3, "epochs": 6, "batch_size": 16, "rank": 8, "alpha": 64.0, "max_length": 64,
    "patience": 3, "micro_batch_tokens": 1024, "save_steps": 100_000,
}  # fmt: skip

ILLNESSES = {
    "healthy": Illness("healthy"),
    "healthy, 10 % of answers open": Illness("healthy", open=0.1),
    "healthy, and some dropout": Illness("healthy", {"dropout": 0.05, "neftune_alpha": 1.0}, open=0.1),
    "healthy, label smoothing 0.1": Illness("healthy", {"label_smoothing": 0.1}),
    "healthy, label smoothing 0.1 and some dropout": Illness(
        "healthy", {"label_smoothing": 0.1, "dropout": 0.05}, open=0.1
    ),
    "learning rate 0.1": Illness("learning_rate_too_high", {"learning_rate": 0.1}),
    "learning rate 3e-5": Illness("learning_rate_too_low", {"learning_rate": 3e-5}),
    "half a pass": Illness("underfitting", {"epochs": 0.5}),
    "dropout 0.5, decay 1, NEFTune 15": Illness(
        "over_regularised", {"dropout": 0.5, "weight_decay": 1.0, "neftune_alpha": 15.0}
    ),
    "label smoothing 0.5": Illness("over_regularised", {"label_smoothing": 0.5}),
    "40 passes, 30 % wrong answers": Illness("overfitting", {"epochs": 40, "patience": None}, examples=200, wrong=0.3),
    "24 examples": Illness("too_little_data", {"epochs": 30}, examples=24),
    "30 % of validation copied": Illness("leak_suspected", copied=0.3),
    "15 % of answers too long": Illness("truncated_answers", long=0.15),
    "against what was known": Illness("forgetting", general=0.0, contrary=True),
}


class OneThread:
    def threads(self) -> int:
        return 1


def rows_of(illness: Illness, seed: int) -> tuple[list[Row], list[Row]]:
    """Training and validation rows; equal questions never stand in both unless the illness puts them there."""
    chance = random.Random(seed)
    table = dict(zip(LETTERS, chance.sample(LETTERS, len(LETTERS)), strict=True))
    asked: dict[str, str] = {}
    while len(asked) < illness.examples + 96:
        key = chance.choice(LETTERS)
        tag, shown = (chance.choice("ABCD"), key) if illness.contrary else ("Z", key.upper())
        asked[question(tag, shown, chance)] = table[key]
    questions = list(asked)

    def row(asking: str, wrong: float) -> Row:
        answer = chance.choice(LETTERS) if chance.random() < wrong else asked[asking]
        if chance.random() < illness.long:
            answer += "." * 60
        return Row(({"role": "user", "content": asking},), answer)

    train = [row(asking, max(illness.open, illness.wrong)) for asking in questions[96:]]
    validation = [row(asking, illness.open) for asking in questions[:96]]
    for place in range(round(illness.copied * len(validation))):
        validation[place] = train[place]
    mixed_in = [general_rows(chance, round(illness.general * len(rows))) for rows in (train, validation)]
    return train + mixed_in[0], validation + mixed_in[1]


def run(base: Path, work: Path, illness: Illness, seed: int) -> Facts:
    """Train through the real loop, and what the doctor gets to know of it."""
    return Facts.of(**record(base, work, illness, seed))


def record(base: Path, work: Path, illness: Illness, seed: int) -> dict[str, Any]:
    """The same, as it is stored."""
    torch.set_num_threads(1)
    recipe = Recipe.from_differences(HEALTHY | illness.recipe | {"seed": seed})
    torch.manual_seed(seed)
    whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = prepare(whole, AutoTokenizer.from_pretrained(base))
    rows, others = rows_of(illness, seed)
    train, too_long = tokenize(model.tokenizer, rows, recipe.max_length)
    validation, too_long_too = tokenize(model.tokenizer, others, recipe.max_length)
    train, _, leaked = leaks.found(train, validation, [], leave_out=recipe.leave_out_leaked)
    probe = Probe(model, tokenize(model.tokenizer, general_rows(random.Random(seed), 96), recipe.max_length)[0])
    steps: list[dict[str, Any]] = []

    def hear(event: object) -> None:
        if isinstance(event, Stepped):
            steps.append(event.model_dump(mode="json", exclude_none=True))

    training = Training(
        model=model, tuned=make_trainable(model, recipe), objective=Supervised(model, Noise.of(recipe)),
        recipe=recipe, train=train, validation=validation, base_model="tiny", state_dir=work / "states",
        checkpoint_dir=work / "checkpoints", data_sha256="x", emit=hear, should_stop=lambda: False, share=OneThread(),
    )  # fmt: skip
    error, probed = None, None
    try:
        training.run()
        training.tuned.load(training.best)
        probed = probe.compared().model_dump(exclude={"event"})
    except TrainingFailed as failed:
        error = failed.code
    left_out = [*too_long, *too_long_too]
    started = {
        "total_steps": training.plan.total_steps, "train_examples": len(training.train), "leaked": leaked,
        "validation_examples": len(validation), "left_out": len(left_out),
        "longest": max([len(example) for example in flat([*train, *validation])] + left_out),
    }  # fmt: skip
    return {
        "recipe": recipe, "started": started, "metrics": steps, "probed": probed, "ended": True, "error_code": error,
    }  # fmt: skip
