"""What the doctor says of few facts, and of curves of which the right answer is known."""

from typing import Any

import numpy as np
import pytest

from services.training.doctor.diagnosis import Diagnosis, diagnose, finds
from services.training.doctor.facts import Facts
from services.training.doctor.forecast import Point, forecast
from services.training.doctor.measures import added_by_noise
from services.training.recipe import Recipe

PROBED = {"questions": 40, "before": 1.5, "after": 1.5, "change_error": 0.02}


def steps(losses: list[float], **at_end: float) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"step": n, "epoch": n / 4, "train_loss": loss, "learning_rate": 1e-3, "gradient_norm": 1.0}
        for n, loss in enumerate(losses, start=1)
    ]
    found[-1] |= at_end
    return found


def noisy(curve: np.ndarray) -> list[float]:
    return list(curve + np.random.default_rng(0).normal(0, 0.1, len(curve)))


def healthy(end: float) -> list[float]:
    return noisy(end + 3.0 * np.exp(-np.arange(60) / 6))


def of(recipe: Recipe, losses: list[float], **at_end: float) -> Diagnosis:
    return diagnose(Facts.of(recipe, {}, steps(losses, **at_end), probed=PROBED, ended=True))


def test_a_run_that_said_nothing_yet_is_too_early_to_judge() -> None:
    found = diagnose(Facts.of(Recipe(), {}, [], ended=False))
    assert (found.verdict, found.findings) == ("too_early", ())
    assert len(found.not_judged) == 3


def test_a_run_without_validation_is_not_called_healthy() -> None:
    assert of(Recipe(), noisy(3 * np.exp(-np.arange(40) / 5))).verdict == "not_validated"


def test_a_loss_that_is_no_number_is_the_learning_rates_fault() -> None:
    facts = Facts.of(Recipe(learning_rate=0.5), {}, steps([2.0, 2.1]), ended=True, error_code="non_finite_loss")
    (finding,) = diagnose(facts).findings
    assert (finding.verdict, finding.remedy) == ("learning_rate_too_high", {"learning_rate": 0.05})


def test_a_loss_that_is_no_number_in_the_first_step_is_the_learning_rates_fault_too() -> None:
    facts = Facts.of(Recipe(learning_rate=0.5), {}, [], ended=True, error_code="non_finite_loss")
    (finding,) = diagnose(facts).findings
    assert (finding.verdict, finding.remedy) == ("learning_rate_too_high", {"learning_rate": 0.05})


@pytest.mark.parametrize(("code", "told"), [(None, "cancelled"), ("out_of_memory", "out_of_memory")])
def test_a_run_that_was_broken_off_is_neither_healthy_nor_underfitted(code: str | None, told: str) -> None:
    falling = steps(list(np.linspace(5, 4.5, 10)), valid_loss=4.5)
    facts = Facts.of(Recipe(), {"total_steps": 1000}, falling, probed=PROBED, ended=False, over=True, error_code=code)
    found = diagnose(facts)
    assert (found.verdict, found.findings) == ("interrupted", ())
    assert told in found.not_judged[0]


def test_an_older_run_that_measured_less_is_judged_by_what_it_has() -> None:
    facts = Facts.of(Recipe(), {}, steps([3.0, 2.0, 1.0, 0.9], valid_loss=0.95), ended=True)
    assert facts.validations[0].train_loss == (3 + 2 + 1 + 0.9) / 4
    assert any("over-regularisation" in reason for reason in diagnose(facts).not_judged)


@pytest.mark.parametrize(("rate", "verdict"), [(1e-3, "underfitting"), (1e-5, "learning_rate_too_low")])
def test_a_straight_fall_with_most_of_the_loss_left_ended_too_early_or_moved_too_little(
    rate: float, verdict: str
) -> None:
    assert of(Recipe(learning_rate=rate), noisy(np.linspace(4.0, 3.0, 60))).verdict == verdict


def test_a_curve_that_has_levelled_off_high_is_not_called_underfitting() -> None:
    """What is left may be what cannot be known: language has entropy."""
    assert of(Recipe(), noisy(2.5 + 1.5 * np.exp(-np.arange(60) / 5)), valid_loss=2.5).findings == ()


def test_a_rise_within_the_batches_noise_is_no_rise() -> None:
    rng = np.random.default_rng(1)
    assert of(Recipe(), list(4 * np.exp(-np.arange(30) / 20) + rng.normal(0, 0.5, 30)), valid_loss=1.0).findings == ()


def test_a_loss_that_was_driven_up_is_the_learning_rates_fault_and_single_batches_are_not() -> None:
    calm = noisy(3 * np.exp(-np.arange(60) / 10))
    assert of(Recipe(), [9.0 if n % 12 == 11 else loss for n, loss in enumerate(calm)], valid_loss=0.1).findings == ()
    driven = of(Recipe(learning_rate=0.1), calm[:20] + noisy(np.full(40, 3.0)), valid_loss=0.5)
    assert driven.verdict == "learning_rate_too_high"
    assert driven.findings[0].evidence[0].value > 1.5


def test_little_forgetting_and_uncertain_forgetting_are_left_alone() -> None:
    curve = steps(noisy(3 * np.exp(-np.arange(40) / 5)), valid_loss=0.1)
    for after, error, said in ((1.6, 0.01, "healthy"), (1.8, 0.08, "healthy"), (1.8, 0.01, "forgetting")):
        probed = PROBED | {"after": after, "change_error": error}
        assert diagnose(Facts.of(Recipe(), {}, curve, probed=probed, ended=True)).verdict == said


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("noise", [{"dropout": 0.05}, {"neftune_alpha": 5.0}])
def test_noise_is_named_where_it_adds_much_to_the_plain_loss(noise: dict[str, float], smoothing: float) -> None:
    scored = {"valid_loss": 0.62, "valid_loss_error": 0.05, "train_eval_loss": 0.61, "train_eval_loss_error": 0.05}
    recipe = Recipe(label_smoothing=smoothing, **noise)
    for added, error, said in (
        (0.30, 0.05, "over_regularised"),
        (0.30, 0.12, "healthy"),  # within chance
        (0.10, 0.01, "healthy"),  # beyond chance, and little beside the start's loss
    ):
        found = of(recipe, healthy(1.73), **scored, train_eval_noise=added, train_eval_noise_error=error)
        assert (found.verdict, found.not_judged) == (said, ())
        assert all(finding.remedy["dropout"] == 0 for finding in found.findings)
    for unmeasured in ({}, {"train_eval_noise": 0.3}):  # not at all, and on too few examples to know how well
        unknown = of(recipe, healthy(1.73), **scored, **unmeasured)
        assert (unknown.verdict, len(unknown.not_judged)) == ("healthy", 1)
        assert "dropout or NEFTune: this run did not measure" in unknown.not_judged[0]


def test_noise_is_measured_over_the_second_half_of_the_validations() -> None:
    scored = {"valid_loss": 0.62, "valid_loss_error": 0.05, "train_eval_loss": 0.61, "train_eval_loss_error": 0.05}
    curve = steps(healthy(1.73))
    for step, added in zip(curve[14::15], (2.0, 2.0, 0.1, 0.3), strict=True):
        step |= scored | {"train_eval_noise": added, "train_eval_noise_error": 0.06}
    added = added_by_noise(Facts.of(Recipe(dropout=0.1), {}, curve, ended=True))
    assert added is not None
    assert (added.loss, added.error) == (pytest.approx(0.2), pytest.approx(0.06 * (1 / 3 + 2 / 3 / 2) ** 0.5))
    assert added.steps == (45, 60)


def test_a_smoothed_loss_far_above_the_plain_one_is_no_harm() -> None:
    scored = {"valid_loss": 0.62, "valid_loss_error": 0.05, "train_eval_loss": 0.61, "train_eval_loss_error": 0.05}
    found = of(Recipe(label_smoothing=0.1), healthy(1.73), **scored)
    assert (found.verdict, found.findings, found.not_judged) == ("healthy", (), ())


@pytest.mark.parametrize(
    ("smoothing", "learned", "unseen", "verdict"),
    [
        (0.5, 0.78, 0.80, "over_regularised"),
        (0.1, 0.12, 0.13, "healthy"),  # light
        (0.5, 1.90, 1.92, "healthy"),  # most of it may be what cannot be known
        (0.5, 0.10, 0.11, "healthy"),  # nothing left to gain
        (0.5, 0.78, 1.60, "healthy"),  # unseen examples are worse: there is something to regularise against
        (0.5, 0.78, 1.00, "over_regularised"),  # worse beyond chance, and by little beside what smoothing costs
    ],
)
def test_heavy_smoothing_is_named_where_it_alone_keeps_the_plain_loss_up(
    smoothing: float, learned: float, unseen: float, verdict: str
) -> None:
    scored = {"valid_loss": unseen, "valid_loss_error": 0.02, "train_eval_loss": learned, "train_eval_loss_error": 0.02}
    found = of(Recipe(label_smoothing=smoothing), healthy(3.2), **scored)
    assert found.verdict == verdict
    assert [finding.remedy for finding in found.findings] == [{"label_smoothing": 0.0}] * len(found.findings)


@pytest.mark.parametrize(("decay", "verdict"), [(1.0, "over_regularised"), (0.5, "healthy")])
def test_decay_is_named_where_it_alone_would_shrink_the_weights(decay: float, verdict: str) -> None:
    scored = {"valid_loss": 1.02, "valid_loss_error": 0.05, "train_eval_loss": 1.0, "train_eval_loss_error": 0.05}
    curve = [step | {"learning_rate": 1e-2} for step in steps(healthy(1.0), **scored)]
    found = diagnose(Facts.of(Recipe(weight_decay=decay), {}, curve, probed=PROBED, ended=True))
    assert found.verdict == verdict
    for finding in found.findings:
        assert finding.remedy["weight_decay"] == 0.01
        assert "Decay alone shrinks the weights to 55%" in finding.summary


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_that_vanish_at_a_smoothed_floor_were_not_thrown_away(smoothing: float) -> None:
    """The gradient of a run that has learned all is small, and the smoothed loss cannot be."""
    curve = steps(healthy(0.9), valid_loss=0.14, valid_loss_error=0.02, train_eval_loss=0.11, train_eval_loss_error=0.0)
    for number, step in enumerate(curve):
        step["gradient_norm"] = 9.0 * float(np.exp(-number / 6)) + 0.2
    found = diagnose(Facts.of(Recipe(label_smoothing=smoothing), {}, curve, probed=PROBED, ended=True))
    assert found.verdict == ("healthy" if smoothing else "learning_rate_too_high")


def test_a_smoothed_run_that_moved_little_is_still_named_and_one_without_a_plain_loss_is_not_judged() -> None:
    falling = noisy(np.linspace(4.6, 4.2, 60))
    slow = Recipe(label_smoothing=0.1, learning_rate=1e-5)
    assert of(slow, falling, valid_loss=3.4, train_eval_loss=3.5).verdict == "learning_rate_too_low"
    unmeasured = of(slow, falling)
    assert (unmeasured.verdict, unmeasured.findings) == ("not_validated", ())
    assert any("ended too early: the plain loss" in reason for reason in unmeasured.not_judged)


@pytest.mark.parametrize(("learned", "verdict"), [(0.3, "healthy"), (3.0, "underfitting")])
def test_a_short_smoothed_run_is_underfitted_by_its_plain_loss_only(learned: float, verdict: str) -> None:
    scored = {"valid_loss": learned + 0.01, "valid_loss_error": 0.05, "train_eval_loss": learned}
    assert of(Recipe(label_smoothing=0.2), list(np.linspace(4.6, 2.6, 12)), **scored).verdict == verdict


@pytest.mark.parametrize(("smoothing", "verdict"), [(0.0, "forgetting"), (0.1, "healthy")])
def test_what_smoothing_alone_gives_up_on_general_questions_is_not_forgotten(smoothing: float, verdict: str) -> None:
    curve = steps(healthy(0.9), valid_loss=0.12, train_eval_loss=0.11)
    probed = PROBED | {"after": 1.5 + 0.36}
    assert (
        diagnose(Facts.of(Recipe(label_smoothing=smoothing), {}, curve, probed=probed, ended=True)).verdict == verdict
    )


def test_a_verdict_is_found_again_only_where_it_can_be_told() -> None:
    curve = steps(noisy(3 * np.exp(-np.arange(40) / 5)), valid_loss=0.1)

    def facts(after: float | None, *, ended: bool = True) -> Facts:
        probed = None if after is None else PROBED | {"after": after}
        return Facts.of(Recipe(), {}, curve, probed=probed, ended=ended)

    assert finds(facts(2.5), "forgetting") is True
    assert finds(facts(1.6), "forgetting") is False
    assert finds(facts(None), "forgetting") is None
    assert finds(facts(2.5, ended=False), "forgetting") is None
    assert finds(facts(None), "overfitting") is False


def test_forecasts_what_a_power_law_will_bring_and_doubts_what_is_noise() -> None:
    points = [Point(n, 0.5 + 8 * n**-0.5, 0.01) for n in (100, 200, 400)]
    found = forecast(points)
    assert found is not None
    assert found.examples == 800
    assert found.low < found.gain < found.high
    assert found.gain == pytest.approx(8 * (400**-0.5 - 800**-0.5), rel=0.35)
    assert found.tells
    flat = forecast([Point(n, 0.5, 0.05) for n in (100, 200, 400)])
    assert flat is not None
    assert not flat.tells
    assert forecast(points[:2]) is None


def test_a_forecast_gain_tells_of_too_little_data_where_the_gap_alone_would_not() -> None:
    curve = steps(noisy(3 * np.exp(-np.arange(40) / 5)), valid_loss=0.9, valid_loss_error=0.01, train_eval_loss=0.6)
    started = {"train_examples": 400}
    alone = Facts.of(Recipe(), started, curve, probed=PROBED, ended=True)
    assert diagnose(alone).verdict == "healthy"
    smaller = [Point(n, 0.5 + 8 * n**-0.5, 0.01) for n in (100, 200)]
    (finding,) = diagnose(Facts.of(Recipe(), started, curve, probed=PROBED, smaller=smaller, ended=True)).findings
    assert finding.verdict == "too_little_data"
    assert "800 examples" in finding.summary
