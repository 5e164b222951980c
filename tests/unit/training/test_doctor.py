"""What the doctor says of few facts, and of curves of which the right answer is known."""

from typing import Any

import numpy as np
import pytest

from services.training.doctor.diagnosis import Diagnosis, diagnose
from services.training.doctor.facts import Facts
from services.training.doctor.forecast import Point, forecast
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
    for after, error, said in ((1.6, 0.01, "healthy"), (1.9, 0.2, "healthy"), (1.9, 0.05, "forgetting")):
        probed = PROBED | {"after": after, "change_error": error}
        assert diagnose(Facts.of(Recipe(), {}, curve, probed=probed, ended=True)).verdict == said


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
