"""When a search is over and how many trials are next."""

import pytest

from services.training.search.domain import Budget, TrialStatus, over, percent, ready_to_compare, to_start


@pytest.mark.parametrize(
    ("budget", "trials", "more"),
    [
        (Budget(5, 1, None, 0), [], 1),
        (Budget(5, 3, None, 0), ["running"], 2),
        (Budget(5, 3, None, 0), ["complete"] * 3 + ["running"], 1),
        (Budget(5, 3, None, 0), ["failed"] * 5, 0),
        (Budget(5, 3, 60.0, 60.0), ["complete"], 0),
        (Budget(5, 3, 60.0, 59.9), ["complete"], 3),
    ],
)
def test_starts_what_there_is_room_and_budget_for(budget: Budget, trials: list[TrialStatus], more: int) -> None:
    assert to_start(budget, trials) == more


def test_is_over_when_the_trials_are_used_up_and_none_runs() -> None:
    budget = Budget(2, 2, None, 0)
    assert not over(budget, ["complete"])
    assert not over(budget, ["complete", "running"])
    assert over(budget, ["failed", "complete"])


def test_is_over_when_the_minutes_are_used_up_and_none_runs() -> None:
    budget = Budget(9, 2, 60.0, 61.0)
    assert not over(budget, ["running"])
    assert over(budget, ["stopped"])
    assert over(budget, [])
    assert budget.seconds_left == 0.0


def test_compares_once_three_trials_are_complete() -> None:
    assert not ready_to_compare(["complete", "complete", "failed", "running"])
    assert ready_to_compare(["complete", "pruned", "complete", "complete"])


def test_measures_runs_of_any_length_in_percent() -> None:
    assert [percent(1, 1000), percent(5, 20), percent(20, 20)] == [1, 25, 100]
