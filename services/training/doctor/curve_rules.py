"""The rules about a run's curves. One cause explains a curve: the first rule that applies, in CURVE_RULES' order."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from services.training.doctor.facts import Facts, Validation
from services.training.doctor.findings import Evidence, Finding
from services.training.doctor.measures import added_by_noise, gradient_collapse, highest_rise, left, levelling
from services.training.doctor.rules import SURE, rounded
from services.training.errors import NonFiniteLoss
from services.training.recipe import ONLY_ADAPTERS, Recipe

_FEWEST_STEPS = 8
"""Steps that a rule about the loss curve needs."""
_STEPS_OF_A_RISE = 20
"""Of fewer, whose noise is hardly known, some five are higher than some other five by chance."""
_SURE_OF_MANY = 4.0
"""Standard errors that it must exceed where the largest of many differences is looked at."""
_RISE_SHARE = 0.5
"""A training loss that rises by this share of the start's was driven up by the steps."""
_COLLAPSED = 0.2
"""Where gradients have shrunk five times as much as the loss, nothing learns any more."""
_MOST_LEFT = 0.5
"""Share of the start's loss that is left from which a run counts as having learned little."""
_NOISE_SHARE = 0.05
"""Share of the start's loss that dropout and its like add at the end: it matters beside what there was to learn."""
_SMOOTHED_AWAY = 0.25
"""Nats of plain loss from which smoothing is heavy: exp(0.25), 28 % more surprised by each token; 0.22 and more."""
_SMOOTHED_SHARE = 0.5
"""Share of the plain loss that smoothing has to account for, or it may be what cannot be known."""
_GAP_SHARE = 0.5
"""Of what holds the model back: where unseen examples are worse by less, it costs more than it could protect from."""
_SHRINKAGE = 0.5
"""Nats by which decay alone would shrink every weight in the run: exp(-0.5) leaves 61 %."""
_SOME_LEFT = 0.1
"""Share of the start's loss that must be left for there to be something to gain."""
_WIDE_GAP = 0.8
"""Share of the validation loss that is missing on learned examples: these are known five times as well."""
_WORTHWHILE = 0.1
"""Share of the validation loss that twice the examples must bring."""
_RISE_AFTER_BEST = 0.1


def learning_rate_too_high(facts: Facts) -> Finding | None:
    """The steps drove the loss out of bounds or up, or the weights to where gradients vanish and the loss stays."""
    if len(facts.losses) == 0:
        return _exploded_at_once(facts)
    for found in (_exploded(facts), _rose(facts), _collapsed(facts)):
        if found is not None:
            summary, evidence = found
            return Finding(
                "learning_rate_too_high",
                summary,
                (
                    evidence,
                    Evidence("highest gradient norm", float(facts.norms.max()), facts.recipe.max_grad_norm),
                    Evidence("highest learning rate", float(facts.rates.max())),
                ),
                {"learning_rate": rounded(facts.recipe.learning_rate / 10)},
                "Take a tenth of the learning rate.",
            )
    return None


def _exploded_at_once(facts: Facts) -> Finding | None:
    """The first step already: nothing of a curve is there."""
    if facts.error_code != NonFiniteLoss.code:
        return None
    return Finding(
        "learning_rate_too_high",
        "The loss exploded in the first step, and the run was stopped.",
        (Evidence("learning rate", facts.recipe.learning_rate, steps=(1, 1)),),
        {"learning_rate": rounded(facts.recipe.learning_rate / 10)},
        "Take a tenth of the learning rate.",
    )


def learning_rate_too_low(facts: Facts) -> Finding | None:
    """The loss falls in proportion to the learning rate that was spent, at a rate far below the usual."""
    usual = usual_rate(facts.recipe)
    found = _still_linear(facts)
    if found is None or facts.recipe.learning_rate > usual / 3:
        return None
    return Finding(
        "learning_rate_too_low",
        f"After {len(facts.losses)} steps {found[1].value:.0%} of the loss is left, and the last steps gained as much "
        "per learning rate as the first: the weights hardly moved.",
        (*found, Evidence("learning rate", facts.recipe.learning_rate, usual / 3)),
        {"learning_rate": usual},
        "Take the usual learning rate.",
    )


def underfitting(facts: Facts) -> Finding | None:
    """The run ended while every step still helped: too few of them."""
    found = _still_linear(facts)
    if found is None or facts.recipe.learning_rate <= usual_rate(facts.recipe) / 3:
        return None
    return Finding(
        "underfitting",
        f"The run ended after {len(facts.losses)} steps with {found[1].value:.0%} of the loss left, while the last "
        "steps gained as much as the first.",
        found,
        {"epochs": facts.recipe.epochs * 5, "max_steps": None},
        "Train for five times as many passes; validation stops it in time.",
    )


def over_regularised(facts: Facts) -> Finding | None:
    """Noise, decay or smoothing, not a lack of steps, keeps the plain training loss up, and nothing, beside what that
    costs, is learned by heart."""
    if not facts.validations or not facts.validations[-1].measured_alike:
        return None
    last = facts.validations[-1]
    for found in (_held_by_noise(facts, last), _held_by_decay(facts, last), _held_by_smoothing(facts, last)):
        if found is None:
            continue
        limit = max(SURE * last.gap_error, _GAP_SHARE * found.cost)
        if last.gap >= limit:
            continue
        return Finding(
            "over_regularised",
            f"{found.summary} Learned examples are at {last.train_loss:.2f}, unseen ones at "
            f"{last.valid_loss:.2f}: there is too little to regularise against.",
            (*found.evidence, Evidence("validation loss less training loss, nats", last.gap, limit, (last.step,) * 2)),
            _fitting(facts.recipe, found.remedy),
            "Weaken what holds the model back.",
        )
    return None


def too_little_data(facts: Facts) -> Finding | None:
    """The learning curve forecasts a gain from more examples; or, without one, learned examples are far ahead even at
    the best validation."""
    best, told = facts.best, facts.forecast
    if best is None or len(facts.losses) < _FEWEST_STEPS:
        return None
    gap = best.gap / best.valid_loss
    wide = gap >= _WIDE_GAP and best.gap >= SURE * best.gap_error
    worthwhile = told is not None and told.tells and told.gain >= _WORTHWHILE * best.valid_loss
    if best.valid_loss < _SOME_LEFT * facts.start_loss or not (wide if told is None else worthwhile):
        return None
    forecast = (
        ""
        if told is None
        else (
            f" With {told.examples} examples the loss is forecast to fall by {told.gain:.2f} ({told.low:.2f} to "
            f"{told.high:.2f})."
        )
    )
    evidence = [
        Evidence("gap at the best validation, of its loss", gap, _WIDE_GAP, (best.step, best.step)),
        Evidence("training examples", facts.train_examples),
    ]
    if told is not None:
        evidence.append(
            Evidence("forecast gain from twice the examples, nats", told.gain, _WORTHWHILE * best.valid_loss)
        )
    return Finding(
        "too_little_data",
        f"At its best (step {best.step}) the loss is {best.train_loss:.2f} on learned examples and "
        f"{best.valid_loss:.2f} on unseen ones: {facts.train_examples} examples do not tell the rule.{forecast}",
        tuple(evidence),
        _fitting(facts.recipe, {"dropout": max(0.1, facts.recipe.dropout), "patience": 5}),
        "More examples are what helps: in the study no recipe made up for them. Some dropout and the best checkpoint "
        "keep what there is from being learned by heart only.",
    )


def overfitting(facts: Facts) -> Finding | None:
    """After its best the validation loss rose while learned examples went on improving."""
    best = facts.best
    if best is None or len(facts.losses) < _FEWEST_STEPS:
        return None
    last = facts.validations[-1]
    rise = last.valid_loss - best.valid_loss
    limit = max(_RISE_AFTER_BEST * best.valid_loss, best.valid_error)
    if rise < limit or last.train_loss >= best.train_loss or last.gap < SURE * last.gap_error:
        return None
    return Finding(
        "overfitting",
        f"The validation loss was best at step {best.step} ({best.valid_loss:.2f}) and rose to {last.valid_loss:.2f} "
        f"by step {last.step}, while the loss of learned examples fell from {best.train_loss:.2f} to "
        f"{last.train_loss:.2f}.",
        (
            Evidence("rise of the validation loss after its best, nats", rise, limit, (best.step, last.step)),
            Evidence("validation loss less training loss, nats", last.gap, SURE * last.gap_error, (last.step,) * 2),
        ),
        _fitting(
            facts.recipe,
            {
                # a falling schedule spends half of a constant one's learning rate
                "epochs": min(facts.recipe.epochs, max(1.0, round(2 * best.epoch, 1))),
                "dropout": max(0.1, facts.recipe.dropout),
                "patience": 3,
            },
        ),
        "Let the learning rate reach zero soon after validation was best, with some dropout.",
    )


def usual_rate(recipe: Recipe) -> float:
    """The default of what the recipe tunes; DPO's published runs take a tenth."""
    rate = Recipe.from_differences({"tune": recipe.tune}).learning_rate
    return rate / 10 if recipe.objective == "dpo" else rate


def _fitting(recipe: Recipe, remedy: dict[str, Any]) -> dict[str, Any]:
    """Without what says nothing in full fine-tuning, which a recipe refuses."""
    return {name: value for name, value in remedy.items() if recipe.tune != "full" or name not in ONLY_ADAPTERS}


class _Held(NamedTuple):
    """What holds a model back, in words, by what numbers, and the recipe without it."""

    summary: str
    evidence: tuple[Evidence, ...]
    remedy: dict[str, Any]
    cost: float = 0.0
    """Nats of the training loss that are its doing, as far as that is known."""


def _held_by_noise(facts: Facts, last: Validation) -> _Held | None:
    """Whether dropout and NEFTune make the loss of learned examples much higher than it is without them."""
    noise = added_by_noise(facts)
    if noise is None or not _much_left(facts, last):
        return None
    limit = max(_NOISE_SHARE * facts.start_loss, SURE * noise.error)
    if noise.loss < limit:
        return None
    summary = f"The training's noise adds {noise.loss:.2f} nats to the loss of learned examples."
    evidence = Evidence("loss that dropout and NEFTune add, nats", noise.loss, limit, noise.steps)
    return _Held(summary, (evidence,), _loosened(facts.recipe), noise.loss)


def _held_by_decay(facts: Facts, last: Validation) -> _Held | None:
    shrinkage = float(facts.rates.sum()) * facts.recipe.weight_decay
    if shrinkage < _SHRINKAGE or not _much_left(facts, last):
        return None
    summary = f"Decay alone shrinks the weights to {math.exp(-shrinkage):.0%} in this run."
    evidence = Evidence("log shrinkage of the weights by decay", shrinkage, _SHRINKAGE)
    return _Held(summary, (evidence,), _loosened(facts.recipe))


def _held_by_smoothing(facts: Facts, last: Validation) -> _Held | None:
    """Whether label smoothing alone accounts for what is left of the plain loss of learned examples, and that is much.

    Where most of the loss is above what smoothing asks for, it may as well be what cannot be known.
    """
    gain = min(facts.smoothing_asks, last.train_loss)
    if gain < _SMOOTHED_AWAY or gain < _SMOOTHED_SHARE * last.train_loss:
        return None
    smoothing = facts.recipe.label_smoothing
    summary = (
        f"With label_smoothing {smoothing:g} the training gives the right token {1 - smoothing:.0%} at most, which "
        f"alone costs {facts.smoothing_asks:.2f} nats of plain loss."
    )
    evidence = (
        Evidence("plain training loss that smoothing asks for, nats", gain, _SMOOTHED_AWAY, (last.step,) * 2),
        Evidence("its share of the plain training loss", gain / last.train_loss, _SMOOTHED_SHARE, (last.step,) * 2),
    )
    return _Held(summary, evidence, {"label_smoothing": 0.0}, gain)


def _much_left(facts: Facts, last: Validation) -> bool:
    return last.train_loss - facts.smoothing_asks >= _SOME_LEFT * facts.start_loss


def _loosened(recipe: Recipe) -> dict[str, Any]:
    return {"dropout": 0.0, "neftune_alpha": 0.0, "weight_decay": min(0.01, recipe.weight_decay)}


def _still_linear(facts: Facts) -> tuple[Evidence, Evidence] | None:
    """Evidence that a finished run had learned little and had not, beyond chance, begun to level off."""
    if not facts.ended or len(facts.losses) < _FEWEST_STEPS:
        return None
    found, remaining = levelling(facts), left(facts)
    if found is None or found.certain or remaining is None or remaining.share < _MOST_LEFT:
        return None
    return (
        Evidence("gain per learning rate, end against beginning", found.share, 0.5, (1, len(facts.losses))),
        Evidence("share of the start's loss that is left", remaining.share, _MOST_LEFT, remaining.steps),
    )


def _exploded(facts: Facts) -> tuple[str, Evidence] | None:
    if facts.error_code != NonFiniteLoss.code:
        return None
    highest = Evidence("highest training loss, nats", float(facts.losses.max()), steps=(1, len(facts.losses)))
    return "The loss exploded, and the run was stopped.", highest


def _rose(facts: Facts) -> tuple[str, Evidence] | None:
    """Whether the median of a tenth of the steps rose above an earlier one by more than its noise, and by enough."""
    if len(facts.losses) < _STEPS_OF_A_RISE:
        return None
    rise, error, steps = highest_rise(facts)
    limit = max(_RISE_SHARE * facts.start_loss, _SURE_OF_MANY * error)
    if rise <= limit:
        return None
    summary = f"The training loss rose by {rise:.2f} nats between steps {steps[0]} and {steps[1]}."
    return summary, Evidence("rise of the median training loss, nats", rise, limit, steps)


def _collapsed(facts: Facts) -> tuple[str, Evidence] | None:
    """Whether gradients vanished while the loss stayed."""
    if len(facts.losses) < _FEWEST_STEPS:
        return None
    remaining = left(facts)
    if remaining is None or remaining.share < _SOME_LEFT:
        return None
    collapse = gradient_collapse(facts, remaining)
    if collapse > _COLLAPSED:
        return None
    summary = (
        f"The gradients vanished while {remaining.loss:.2f} nats of the training loss were left: the first large steps "
        "threw the weights where nothing depends on them any more."
    )
    return summary, Evidence("gradient norm left, over loss left", collapse, _COLLAPSED, remaining.steps)


CURVE_RULES: tuple[Callable[[Facts], Finding | None], ...] = (
    learning_rate_too_high,
    learning_rate_too_low,
    over_regularised,
    underfitting,
    too_little_data,
    overfitting,
)
