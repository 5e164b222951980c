"""The estimate is honest: unknown until measured, and close from the first tenth of a steady run on."""

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.training.pace import Ahead, Pace

RECORDED = json.loads(Path(__file__).with_name("recorded_runs.json").read_text())
"""Real runs on 2 quiet cores, SmolLM2-135M-Instruct on the demo's questions, as `tests.benchmarks.estimates` traces
them: `seconds` when the process was gone, and of every step when it was told (`at`, in seconds since the process was
started), its own `seconds` and computed `tokens`, what was scored after it and for how long, and the seconds of the
checkpoint and the state that were written then. `ending` are the seconds of the general questions."""


@dataclass(frozen=True)
class Simulated:
    """A run by its tokens, with costs as they were recorded: so much a step, a trained token and a scored one."""

    tokens: tuple[int, ...]
    scored: int
    """Tokens of each validation."""
    validations: int
    noise: float = 0.1
    slow_steps: int = 0
    """First steps that take five seconds more."""

    def run(self, seed: int) -> dict[str, Any]:
        drawn = random.Random(seed)
        told: list[dict[str, Any]] = []
        at, total = 10.0, len(self.tokens)
        for step, tokens in enumerate(self.tokens, start=1):
            seconds = (0.1 + 0.0015 * tokens) * drawn.uniform(1 - self.noise, 1 + self.noise)
            told.append({"seconds": seconds + 5 * (step <= self.slow_steps), "tokens": tokens})
            at += told[-1]["seconds"]
            validates = step * self.validations // total > (step - 1) * self.validations // total
            if validates:
                scored = self.scored * (2 if step == total else 1)
                noise = drawn.uniform(1 - self.noise, 1 + self.noise)
                told[-1] |= {"scored_tokens": scored, "scored_seconds": 0.0007 * scored * noise, "checkpoint": 0.05}
                at += told[-1]["scored_seconds"]
            told[-1]["at"] = at
            at += 0.05 * validates
            if step % 50 == 0:
                told[-1]["state"] = 0.16
                at += 0.16
        return {"seconds": at + 0.7 + 1.0, "ending": 0.7, "steps": told}


def estimates(run: dict[str, Any], *, rehearsed: bool) -> Iterator[tuple[float | None, float]]:
    """(seconds left as estimated, seconds left in truth) after every step but the last, as the loop asks for them."""
    pace, steps = Pace(ending_seconds=run["ending"]), run["steps"]
    if rehearsed:
        validation = next(step for step in steps if "scored_tokens" in step)
        rate = steps[0]["seconds"] / steps[0]["tokens"]
        pace.rehearsal_took(rate, 1.1 * validation["scored_seconds"] / validation["scored_tokens"])
    for number, step in enumerate(steps[:-1]):
        pace.step_took(step["seconds"], step["tokens"])
        if "scored_tokens" in step:
            pace.scoring_took(step["scored_seconds"], step["scored_tokens"])
        later, unwritten = steps[number + 1 :], steps[number:]
        ahead = Ahead(
            trained=sum(one["tokens"] for one in later),
            scored=sum(one.get("scored_tokens", 0) for one in later),
            checkpoints=sum("checkpoint" in one for one in unwritten),
            states=sum("state" in one for one in unwritten),
        )
        yield pace.seconds_left(ahead), run["seconds"] - step["at"]
        if "checkpoint" in step:
            pace.checkpoint_took(step["checkpoint"])
        if "state" in step:
            pace.state_took(step["state"])


def check(found: Iterable[tuple[float | None, float]]) -> None:
    """Within a tenth at the first tenth, and within a fifth ever after."""
    told = list(found)
    tenth = -(-(len(told) + 1) // 10) - 1
    for number, (left, truth) in enumerate(told):
        if number >= tenth:
            assert left == pytest.approx(truth, rel=0.1 if number == tenth else 0.2), f"step {number + 1}"


PLAIN = (*random.Random(1).choices([320, 352], k=104), 128)
PASSAGES = (*random.Random(2).choices([5600, 5760, 5856], k=34), 1760)
UNEVEN = tuple(random.Random(3).choices([64, 96, 512, 2048], [5, 3, 2, 1], k=300))
"""As one row in ten or so is long; of the first tenth fewer are than of the rest."""


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("validations", [1, 3, 10])
@pytest.mark.parametrize(
    ("tokens", "scored"),
    [(PLAIN, 3300), (PASSAGES, 30_000), (UNEVEN, 3300)],
    ids=["short rows", "rows with passages", "rows of uneven length"],
)
def test_is_close_from_the_first_tenth_of_a_steady_run_on(
    tokens: tuple[int, ...], scored: int, validations: int, seed: int
) -> None:
    check(estimates(Simulated(tokens, scored, validations).run(seed), rehearsed=True))


@pytest.mark.parametrize("run", RECORDED, ids=[run["run"] for run in RECORDED])
def test_is_close_from_the_first_tenth_of_a_recorded_run_on(run: dict[str, Any]) -> None:
    check(estimates(run, rehearsed=True))


@pytest.mark.parametrize("seed", range(5))
def test_a_resumed_run_says_nothing_while_it_warms_up_and_then_is_close(seed: int) -> None:
    found = list(estimates(Simulated(PLAIN, 3300, 3, slow_steps=3).run(seed), rehearsed=False))
    assert [left for left, _ in found[:4]] == [None] * 4
    check(found)


def test_follows_a_changed_rate() -> None:
    pace = Pace()
    pace.rehearsal_took(0.01, None)
    for _ in range(101):
        pace.step_took(1.0, 100)
    assert pace.seconds_left(Ahead(1000, 0)) == pytest.approx(11.0)
    for _ in range(50):
        pace.step_took(3.0, 100)
    assert pace.seconds_left(Ahead(1000, 0)) == pytest.approx(31.0), "and a second to end the process"


def test_a_validation_counts_from_the_first_one_seen_what_it_took() -> None:
    pace = Pace(ending_seconds=2.0)
    pace.rehearsal_took(0.01, None)
    assert pace.seconds_left(Ahead(0, 500)) == pytest.approx(500 * 0.004 + 3)
    pace.rehearsal_took(0.01, 0.006)
    assert pace.seconds_left(Ahead(0, 500)) == pytest.approx(500 * 0.006 + 3)
    pace.scoring_took(5.0, 500)
    assert pace.seconds_left(Ahead(0, 500)) == pytest.approx(5 + 3)


def test_files_count_from_the_first_one_written() -> None:
    pace = Pace()
    pace.rehearsal_took(0.01, None)
    assert pace.seconds_left(Ahead(0, 0, checkpoints=3, states=2)) == pytest.approx(1)
    pace.checkpoint_took(2.0)
    pace.state_took(10.0)
    assert pace.seconds_left(Ahead(0, 0, checkpoints=3, states=2)) == pytest.approx(1 + 6 + 20)
