"""A diagnosis on a terminal."""

import io
from typing import Any

import pytest
from rich.console import Console

from services.cli.diagnosis import curves, show

STEPS: list[dict[str, Any]] = [
    {"step": step, "train_loss": 4.0 / step} | ({"valid_loss": 3.0} if step % 5 == 0 else {}) for step in range(1, 21)
]
DIAGNOSIS: dict[str, Any] = {
    "verdict": "leak_suspected",
    "valid_loss": 3.0,
    "general_ability": None,
    "findings": [
        {
            "verdict": "leak_suspected",
            "summary": "8 of 40 [repeat].",
            "evidence": [{"name": "share", "value": 0.2, "limit": 0.05, "steps": [5, 20]}],
            "remedy": {"advice": "Train without them.", "recipe": {"leave_out_leaked": True}},
        }
    ],
    "forecast": {"examples": 80, "gain": 0.25, "low": 0.1, "high": 0.4},
    "not_judged": [],
    "remedies": [
        {
            "fine_tuning_job_id": "ftjob-b",
            "verdict": "leak_suspected",
            "status": "succeeded",
            "valid_loss": 2.5,
            "general_ability": None,
            "comparable": False,
            "found_again": None,
        }
    ],
}
ASKED = {"questions": 40, "before": 1.5, "after": 2.25, "change_error": 0.05}


def shown(diagnosis: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=240)
    show(console, diagnosis, STEPS)
    said: str = console.file.getvalue()  # type: ignore[attr-defined]
    return said


def test_draws_the_highest_loss_on_top_and_the_lowest_below() -> None:
    drawn = curves(STEPS)
    assert drawn[0].startswith("   4.000 │·")
    assert drawn[9].startswith("   0.200 │")
    assert drawn[9].endswith("·")
    assert sum(line.count("o") for line in drawn[:10]) == 4


def test_one_step_is_no_curve() -> None:
    assert curves(STEPS[:1]) == []


def test_a_level_curve_is_drawn() -> None:
    assert any("·" in line for line in curves([{"step": n, "train_loss": 1.0} for n in (1, 2)])[:10])


def test_shows_evidence_remedy_and_what_the_remedy_brought() -> None:
    said = shown(DIAGNOSIS)
    assert "leak suspected: 8 of 40 [repeat]." in said
    assert "leave_out_leaked=True" in said
    assert "5–20" in said
    assert "(succeeded): validation loss 3.0000, now 2.5000 on other examples, which does not compare.\n" in said
    assert "80 training examples would bring the validation loss down by 0.2500 (0.1000 to 0.4000)" in said


@pytest.mark.parametrize(("again", "words"), [(False, "no more"), (True, "again")])
def test_a_remedy_for_forgetting_is_told_by_the_general_questions_first(again: bool, words: str) -> None:
    tried = DIAGNOSIS["remedies"][0] | {
        "verdict": "forgetting",
        "general_ability": ASKED | {"after": 1.625},
        "comparable": True,
        "found_again": again,
    }
    assert (
        "Remedy for forgetting ftjob-b (succeeded): loss on general questions from 1.5000 to 2.2500, now from "
        f"1.5000 to 1.6250; validation loss 3.0000, now 2.5000. Its run shows forgetting {words}."
    ) in shown(DIAGNOSIS | {"general_ability": ASKED, "remedies": [tried]})


def test_a_remedy_that_still_runs_has_no_scores() -> None:
    waits = DIAGNOSIS["remedies"][0] | {"status": "queued", "valid_loss": None}
    assert "Remedy for leak suspected ftjob-b (queued).\n" in shown(DIAGNOSIS | {"remedies": [waits]})
