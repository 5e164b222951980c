"""The rules about a run's curves. One cause explains a curve: the first rule that applies, in CURVE_RULES' order."""

import math
from collections.abc import Callable
from typing import Any

from services.training.doctor.facts import Facts
from services.training.doctor.findings import Evidence, Finding
from services.training.doctor.measures import ending, gradient_collapse, highest_rise, levelling, parts
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
_NOISE_SHARE = 0.1
"""Share of the loss in training that is only dropout's and its like's doing."""
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
    """Noise or decay, not a lack of steps, keeps the training loss up, and nothing is learned by heart."""
    if not facts.validations or not facts.validations[-1].measured_alike:
        return None
    last, recipe = facts.validations[-1], facts.recipe
    noisy = ending(facts, last.step)
    noise = (noisy.loss - last.train_loss) / noisy.loss
    shrinkage = float(facts.rates.sum()) * recipe.weight_decay
    beyond_chance = noisy.loss - last.train_loss >= SURE * math.hypot(noisy.error, last.train_error)
    noise_is_it = beyond_chance and noise >= _NOISE_SHARE and (recipe.dropout > 0 or bool(recipe.neftune_alpha))
    much_left = last.train_loss >= _SOME_LEFT * facts.start_loss
    nothing_to_prevent = last.gap < SURE * last.gap_error
    if not much_left or not nothing_to_prevent or not (noise_is_it or shrinkage >= _SHRINKAGE):
        return None
    remedy = {"dropout": 0.0, "neftune_alpha": 0.0, "weight_decay": min(0.01, recipe.weight_decay)}
    return Finding(
        "over_regularised",
        f"The loss with the training's noise is {noisy.loss:.2f}, without it {last.train_loss:.2f}, and unseen "
        f"examples are no worse than learned ones ({last.valid_loss:.2f}): there is nothing to regularise against.",
        (
            Evidence("share of the training loss that is noise", noise, _NOISE_SHARE, (noisy.first, noisy.last)),
            Evidence("log shrinkage of the weights by decay", shrinkage, _SHRINKAGE),
            Evidence(
                "validation loss less training loss, nats", last.gap, SURE * last.gap_error, (last.step, last.step)
            ),
        ),
        _fitting(recipe, remedy),
        "Weaken what holds the model back.",
    )


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


def _still_linear(facts: Facts) -> tuple[Evidence, Evidence] | None:
    """Evidence that a finished run had learned little and had not, beyond chance, begun to level off."""
    if not facts.ended or len(facts.losses) < _FEWEST_STEPS:
        return None
    found, last = levelling(facts), parts(facts, 3)[-1]
    left = last.loss / facts.start_loss
    if found is None or found.certain or left < _MOST_LEFT:
        return None
    return (
        Evidence("gain per learning rate, end against beginning", found.share, 0.5, (1, last.last)),
        Evidence("share of the start's loss that is left", left, _MOST_LEFT, (last.first, last.last)),
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
    collapse, last = gradient_collapse(facts), parts(facts, 3)[-1]
    if collapse > _COLLAPSED or last.loss < _SOME_LEFT * facts.start_loss:
        return None
    summary = (
        f"The gradients vanished while the training loss stayed at {last.loss:.2f}: the first large steps threw the "
        "weights where nothing depends on them any more."
    )
    return summary, Evidence("gradient norm left, over loss left", collapse, _COLLAPSED, (last.first, last.last))


CURVE_RULES: tuple[Callable[[Facts], Finding | None], ...] = (
    learning_rate_too_high,
    learning_rate_too_low,
    over_regularised,
    underfitting,
    too_little_data,
    overfitting,
)
