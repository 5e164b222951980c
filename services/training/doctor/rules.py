"""The rules about the data and the model: each looks for one fault, and answers its evidence and remedy, or None.

docs/training-doctor.md has the table of what each verdict means. The limits were chosen on runs made sick on purpose
with other seeds than those of the study that counts how often the rules are right (tests/benchmarks/doctor_study.py).
"""

import math
from collections.abc import Callable

from services.training.doctor.facts import Facts
from services.training.doctor.findings import Evidence, Finding

SURE = 3.0
"""Standard errors that a difference must exceed."""
_LEFT_OUT_SHARE, _LEAKED_SHARE = 0.02, 0.05
_FORGOTTEN_SHARE = 0.25
"""Nats by which the loss on general questions must rise to matter: exp(0.25), 28 % more surprised by each token."""


def leak_suspected(facts: Facts) -> Finding | None:
    """Validation examples that training repeats."""
    share = facts.leaked / max(1, facts.validation_examples)
    if facts.leaked < 2 or share < _LEAKED_SHARE:
        return None
    return Finding(
        "leak_suspected",
        f"{facts.leaked} of {facts.validation_examples} validation examples repeat or nearly repeat a training "
        "example, so the validation loss praises what was learned by heart.",
        (Evidence("share of validation examples that training repeats", share, _LEAKED_SHARE),),
        {"leave_out_leaked": True},
        "Train without the training examples that repeat a validation example.",
    )


def truncated_answers(facts: Facts) -> Finding | None:
    """Examples longer than max_length: they were not learned at all."""
    rows = facts.train_examples + facts.validation_examples + facts.left_out
    share = facts.left_out / max(1, rows)
    if facts.left_out < 2 or share < _LEFT_OUT_SHARE:
        return None
    length = 32 * math.ceil(facts.longest / 32)
    return Finding(
        "truncated_answers",
        f"{facts.left_out} of {rows} examples are longer than max_length {facts.recipe.max_length} and were left out; "
        f"the longest has {facts.longest} tokens.",
        (
            Evidence("share of examples left out", share, _LEFT_OUT_SHARE),
            Evidence("tokens of the longest example", facts.longest, facts.recipe.max_length),
        ),
        {"max_length": length},
        "Make room for the longest example, so that long answers are learned too.",
    )


def forgetting(facts: Facts) -> Finding | None:
    """The loss on general questions rose beyond doubt by more than matters, and by more than a model that forgets
    nothing gives up for label smoothing.

    Every run forgets a little, nearly as much as matters; so it is the excess that must be beyond chance, not the rise.
    """
    probed = facts.probed
    if probed is None or probed.change_error is None:
        return None
    rise = probed.after - probed.before
    limit = facts.smoothing_asks + _FORGOTTEN_SHARE + SURE * probed.change_error
    if rise < limit:
        return None
    ratio = facts.recipe.replay_ratio
    return Finding(
        "forgetting",
        f"The loss on {probed.questions} general questions rose from {probed.before:.2f} to {probed.after:.2f} nats "
        "per token: the model lost some of what it could before.",
        (
            Evidence("rise of the loss on general questions, nats", rise, limit),
            Evidence("standard error of the rise, nats", probed.change_error),
        ),
        {"replay_ratio": min(0.5, 2 * ratio)} if ratio else {"learning_rate": rounded(facts.recipe.learning_rate / 3)},
        "Replay more of the old examples."
        if ratio
        else "Take a third of the learning rate, so that the weights move less far, at the price of learning less; "
        "better, give the job a replay_file of what it shall not forget.",
    )


def rounded(rate: float) -> float:
    """A learning rate in two digits, as a recipe takes it."""
    return float(f"{min(1.0, rate):.2g}")


DATA_RULES: tuple[Callable[[Facts], Finding | None], ...] = (leak_suspected, truncated_answers)
MODEL_RULES: tuple[Callable[[Facts], Finding | None], ...] = (forgetting,)
