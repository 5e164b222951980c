"""What is said to Optuna, on a study in memory."""

import optuna
import pytest

from services.training.search.domain import HALVING, RUNGS_FROM, StudyPlan
from services.training.search.space import Dimension
from services.training.search.study import OptunaStudy

SPACE = {"learning_rate": Dimension(low=1e-3, high=1e-1, log=True), "rank": Dimension(choices=(2, 4))}


def study(seed: int = 0) -> OptunaStudy:
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=RUNGS_FROM, reduction_factor=HALVING)
    plan = StudyPlan("search_1", SPACE, {"learning_rate": 1e-3, "rank": 2}, trials=6, seed=seed)
    return OptunaStudy(optuna.create_study(direction="minimize", pruner=pruner), plan)


def curve(*losses: float) -> list[dict[str, float]]:
    return [{"step": 2 * n, "total_steps": 8, "valid_loss": loss} for n, loss in enumerate(losses, start=1)]


def states(asked: OptunaStudy) -> list[str]:
    return [trial.state.name for trial in asked._study.trials]


def test_tries_the_base_first_then_other_points_that_the_seed_decides() -> None:
    first, again, other = (study(seed) for seed in (0, 0, 1))
    points = [[one.ask(range(n)).params for n in range(4)] for one in (first, again, other)]
    assert points[0] == points[1] != points[2]
    assert points[0][0] == {"learning_rate": 1e-3, "rank": 2}
    assert len({point["learning_rate"] for point in points[0]}) == 4


def test_takes_up_a_trial_that_was_asked_for_and_lost() -> None:
    asked = study()
    lost = [asked.ask(()), asked.ask({0})]
    assert [asked.ask(()), asked.ask({0})] == lost
    assert states(asked) == ["RUNNING", "RUNNING"]


def test_tells_each_end_once_and_leaves_what_runs_alone() -> None:
    asked = study()
    for number in range(5):
        asked.ask(range(number))
    asked.falls_behind(1, curve(3.0))
    for _ in range(2):
        asked.tell({0: ("complete", 2.5), 1: ("pruned", 3.0), 2: ("failed", None), 3: ("stopped", 4.0)})
    assert states(asked) == ["COMPLETE", "PRUNED", "FAIL", "FAIL", "RUNNING"]
    assert asked._study.best_value == 2.5
    with pytest.raises(KeyError):
        asked.tell({4: ("running", None)})


def test_compares_at_a_quarter_and_half_of_a_run_and_never_at_its_end() -> None:
    asked = study()
    for number in range(6):
        asked.ask(range(number))
    for number, losses in enumerate([(4.0, 3.0, 2.0, 2.5), (5.0, 4.0, 3.0, 2.9), (6.0, 5.0, 4.0, 3.9), (9.0,)]):
        asked.falls_behind(number, curve(*losses))
    # 4.0, 5.0, 6.0, 9.0 and now 5.5: the two lowest go on
    assert asked.falls_behind(4, curve(5.5))
    assert not asked.falls_behind(5, curve(3.9))
    # at half: 3.0, 4.0, 5.0 and now 3.9, which did not get better
    assert not asked.falls_behind(5, curve(3.9, 4.2))
    # at the end there is nothing left to save, however bad
    assert not asked.falls_behind(5, curve(3.9, 4.2, 4.2, 4.2))
