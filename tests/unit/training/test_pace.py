"""The estimate is honest: unknown until measured, and close from the first tenth of a steady run on."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from services.training.pace import Pace

RECORDED = json.loads(Path(__file__).with_name("recorded_steps.json").read_text())
"""36 steps of a real run on 2 cores: SmolLM2-135M-Instruct, 64 chats, batches of 8, 16 validation examples after every
8 steps; cut where another process began to share the cores. `at` is when a step was reported, its validation included,
in seconds since the first one was; `seconds` is what the step itself took."""
RECORDED_VALIDATION_TOKENS = 704  # twice a step's


def steady(steps: int, every: int, seed: int) -> list[dict[str, Any]]:
    """Steps of 2 s and 400 tokens, validations of 3 s, all with a tenth of noise; the first three take 5 s more."""
    noise = random.Random(seed)
    told, at = [], 0.0
    for step in range(1, steps + 1):
        seconds = noise.uniform(1.8, 2.2) + (5 if step <= 3 else 0)
        validated = step % every == 0
        at += seconds + (noise.uniform(2.7, 3.3) if validated else 0)
        told.append({"at": at, "seconds": seconds, "tokens": noise.randint(360, 440), "validated": validated})
    return told


def estimates(run: list[dict[str, Any]], validation_tokens: int) -> list[tuple[float | None, float]]:
    """(seconds left as estimated, seconds left in truth) after every step from the first tenth on, but the last."""
    pace = Pace(validation_tokens)
    found, before = [], 0.0
    for number, step in enumerate(run, start=1):
        pace.step_took(step["seconds"], step["tokens"])
        to_come = sum(later["validated"] for later in run[number:])
        if len(run) / 10 < number < len(run):
            found.append((pace.seconds_left(len(run) - number, to_come), run[-1]["at"] - step["at"]))
        if step["validated"]:
            pace.validation_took(step["at"] - before - step["seconds"])
        before = step["at"]
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("every", [5, 25, 100])
def test_is_within_a_fifth_after_the_first_tenth_of_a_steady_run(seed: int, every: int) -> None:
    found = estimates(steady(100, every, seed), validation_tokens=1800)
    assert len(found) == 89
    for left, truth in found:
        assert left == pytest.approx(truth, rel=0.2)


def test_is_within_a_fifth_after_the_first_tenth_of_a_recorded_run() -> None:
    found = estimates(RECORDED, RECORDED_VALIDATION_TOKENS)
    assert found[0][0] is None, "its first tenth is the warm-up"
    for left, truth in found[1:]:
        assert left == pytest.approx(truth, rel=0.2)


def test_says_nothing_while_it_warms_up() -> None:
    pace = Pace(100)
    for _ in range(4):
        pace.step_took(60.0, 100)
        assert pace.seconds_left(10, 1) is None
    pace.step_took(1.0, 100)
    assert pace.seconds_left(10, 0) == pytest.approx(10.0)


def test_follows_a_changed_rate() -> None:
    pace = Pace(0)
    for _ in range(100):
        pace.step_took(1.0, 100)
    assert pace.seconds_left(10, 0) == pytest.approx(10.0)
    for _ in range(50):
        pace.step_took(3.0, 100)
    assert pace.seconds_left(10, 0) == pytest.approx(30.0)


def test_takes_an_unseen_validation_for_a_third_of_its_tokens_training() -> None:
    pace = Pace(validation_tokens=600)
    for _ in range(5):
        pace.step_took(2.0, 200)
    assert pace.seconds_left(0, 1) == pytest.approx(2.0)
    pace.validation_took(5.0)
    assert pace.seconds_left(0, 2) == pytest.approx(10.0)
