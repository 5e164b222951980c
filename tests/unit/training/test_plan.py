"""The plan decides every step from its number alone."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.training.lora.plan import Plan
from services.training.recipe import Recipe


@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 5))
def test_sees_every_example_once_per_epoch(examples: int, batch_size: int, seed: int) -> None:
    plan = Plan(Recipe(batch_size=batch_size, epochs=2, seed=seed), examples)
    steps = [plan.batch(step) for step in range(1, plan.total_steps + 1)]
    per_epoch = plan.steps_per_epoch
    for epoch in (steps[:per_epoch], steps[per_epoch:]):
        assert sorted(itertools.chain.from_iterable(epoch)) == list(range(examples))


def test_orders_epochs_and_seeds_differently() -> None:
    plan = Plan(Recipe(batch_size=50, epochs=2), 50)
    other = Plan(Recipe(batch_size=50, epochs=2, seed=1), 50)
    assert plan.batch(1) != plan.batch(2)
    assert plan.batch(1) != other.batch(1)
    assert plan.batch(1) == Plan(Recipe(batch_size=50, epochs=2), 50).batch(1)


@given(st.integers(1, 60), st.integers(1, 30), st.integers(2, 20), st.floats(0.01, 0.99), st.integers(0, 5))
def test_replays_a_share_of_every_batch_all_of_it_in_turn(
    examples: int, replay: int, batch_size: int, ratio: float, seed: int
) -> None:
    plan = Plan(Recipe(batch_size=batch_size, epochs=2, seed=seed, replay_ratio=ratio), examples, replay)
    fresh, again = plan.fresh_at_once, plan.replayed_at_once
    assert fresh + again == batch_size
    assert again == min(max(1, round(ratio * batch_size)), batch_size - 1)
    epoch = range(1, plan.steps_per_epoch + 1)
    assert sorted(place for step in epoch for place in plan.batch(step)) == list(range(examples))
    drawn = [place for step in range(1, plan.total_steps + 1) for place in plan.replayed(step)]
    assert len(drawn) == plan.total_steps * again
    for first in range(0, len(drawn) - replay + 1, replay):
        assert sorted(drawn[first : first + replay]) == list(range(replay))
    same = Plan(Recipe(batch_size=batch_size, epochs=2, seed=seed, replay_ratio=ratio), examples, replay)
    assert same.replayed(plan.total_steps) == plan.replayed(plan.total_steps), "of the step's number alone"


def test_without_replay_nothing_changes() -> None:
    assert Plan(Recipe(replay_ratio=0.5), 40).batch(1) == Plan(Recipe(), 40).batch(1)
    assert Plan(Recipe(replay_ratio=0.5), 40).replayed(1) == []
    assert Plan(Recipe(), 40, replay=9).replayed(1) == []


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_learning_rate_warms_up_to_the_peak_and_never_passes_it(schedule: str) -> None:
    plan = Plan(Recipe.from_differences({"schedule": schedule, "warmup_ratio": 0.1, "epochs": 10}), 160)
    rates = [plan.learning_rate(step) for step in range(1, plan.total_steps + 1)]
    warm = round(0.1 * plan.total_steps)
    assert max(rates) == pytest.approx(plan.recipe.learning_rate)
    assert all(0 < rate <= plan.recipe.learning_rate for rate in rates)
    assert rates[:warm] == sorted(rates[:warm])
    after = rates[warm:]
    assert after == sorted(after, reverse=True)
    assert (rates[-1] < 0.1 * max(rates)) == (schedule != "constant")


def test_max_steps_caps_epochs() -> None:
    assert Plan(Recipe(epochs=100, max_steps=7), 100).total_steps == 7


def test_validates_at_the_end_and_evenly() -> None:
    plan = Plan(Recipe(epochs=2, batch_size=10, evals_per_epoch=2), 100)
    assert [s for s in range(1, 21) if plan.validates_after(s)] == [5, 10, 15, 20]


@pytest.mark.parametrize("cut", [{"max_steps": 10}, {"epochs": 0.1}])
def test_spreads_an_epochs_validations_over_a_run_that_ends_within_it(cut: dict[str, float]) -> None:
    plan = Plan(Recipe.from_differences({"batch_size": 10, "evals_per_epoch": 2} | cut), 1000)
    assert [s for s in range(1, plan.total_steps + 1) if plan.validates_after(s)] == [5, 10]


@given(st.integers(1, 30), st.integers(1, 8), st.integers(1, 4), st.integers(1, 5))
def test_knows_how_many_validations_are_still_to_come(examples: int, batch: int, epochs: int, evals: int) -> None:
    plan = Plan(Recipe(batch_size=batch, epochs=epochs, evals_per_epoch=evals), examples)
    for step in range(plan.total_steps + 1):
        to_come = [later for later in range(step + 1, plan.total_steps + 1) if plan.validates_after(later)]
        assert plan.validations_after(step) == len(to_come)


@given(st.integers(1, 60), st.integers(1, 70))
def test_knows_how_many_states_are_still_to_be_saved(steps: int, every: int) -> None:
    plan = Plan(Recipe(epochs=1000, max_steps=steps, save_steps=every), 8)
    for step in range(1, steps + 1):
        assert plan.saves_from(step) == sum(map(plan.saves_after, range(step, steps + 1)))
