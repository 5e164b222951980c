"""What a search may vary, and the recipe that a point of its space means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.training.hyperparameters import planned
from services.training.lora.plan import Plan
from services.training.recipe import Recipe
from services.training.search.errors import InvalidSpace
from services.training.search.space import (
    DEFAULT_SPACE,
    base_point,
    changes,
    checked,
    default_space,
    differences,
    trial_recipe,
)


def test_the_default_space_holds_the_default_recipe_so_that_it_is_tried_first() -> None:
    assert base_point(DEFAULT_SPACE, Recipe()) == {name: getattr(Recipe(), name) for name in DEFAULT_SPACE}


def test_every_end_of_the_default_space_is_a_recipe() -> None:
    for name, dimension in DEFAULT_SPACE.items():
        for value in dimension.ends():
            assert getattr(trial_recipe(Recipe(), {name: value}), name) == value


def test_leaves_out_the_rank_where_an_adapter_is_continued() -> None:
    assert set(DEFAULT_SPACE) - set(default_space(Recipe(), continued=True)) == {"rank"}
    with pytest.raises(InvalidSpace, match="adapter to continue from") as refused:
        checked({"rank": {"choices": (4, 8)}}, Recipe(), continued=True)
    assert refused.value.param == "space.rank"


def test_a_base_value_outside_the_space_is_not_tried() -> None:
    space = checked({"dropout": {"low": 0.1, "high": 0.3}, "rank": {"choices": (16, 32)}}, Recipe(), continued=False)
    assert base_point(space, Recipe()) == {"rank": 16}
    stepped = checked({"epochs": {"low": 2, "high": 6, "step": 2}}, Recipe(), continued=False)
    assert base_point(stepped, Recipe()) == {}


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("ranks", {"choices": (1, 2)}, "no field"),
        ("seed", {"low": 0, "high": 9}, "luck"),
        ("max_length", {"low": 64, "high": 128}, "could not be compared"),
        ("rank", {"low": 0, "high": 8}, "greater than or equal to 1"),
        ("rank", {"low": 1, "high": 8.5}, "whole number"),
        ("schedule", {"low": 1, "high": 2}, "choices"),
        ("schedule", {"choices": ("cosine", "square")}, "'square' is not allowed"),
        ("dropout", {"low": 0.2, "high": 0.1}, "below"),
        ("dropout", {"low": 0.0, "high": 0.1, "log": True}, "above 0"),
        ("dropout", {"low": 0.0, "high": 1.0}, "less than 1"),
    ],
)
def test_names_the_field_that_cannot_be_searched(name: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidSpace, match=message) as refused:
        checked({name: given}, Recipe(), continued=False)
    assert refused.value.param == f"space.{name}"


def test_the_update_keeps_its_scale_when_the_rank_varies() -> None:
    base = Recipe(rank=16, alpha=32.0)
    assert trial_recipe(base, {"rank": 64}).alpha == 128.0
    assert trial_recipe(base, {"rank": 64, "alpha": 7.0}).alpha == 7.0
    rooted = trial_recipe(Recipe(rank=16, alpha=8.0, rslora=True), {"rank": 64})
    assert rooted.alpha == 16.0  # alpha / √rank stays 2


@pytest.mark.parametrize(("epochs", "an_epoch"), [(0.5, 4), (1.0, 4), (3.0, 2), (4.0, 1), (6.0, 1)])
def test_every_run_is_validated_at_least_four_times_and_as_patient_as_before(epochs: float, an_epoch: int) -> None:
    recipe = trial_recipe(Recipe(patience=3), {"epochs": epochs})
    assert recipe.evals_per_epoch == an_epoch
    assert recipe.patience == 3 * an_epoch
    assert trial_recipe(Recipe(patience=None), {"epochs": epochs}).patience is None


def validated(recipe: Recipe, examples: int) -> list[int]:
    plan = Plan(recipe, examples)
    return [step for step in range(1, plan.total_steps + 1) if plan.validates_after(step)]


@pytest.mark.parametrize("rows", [700, 5_000, 100_000])
def test_a_run_that_max_steps_ends_within_its_first_epoch_is_validated_at_both_rungs(rows: int) -> None:
    assert validated(trial_recipe(Recipe.named("quick"), {}), rows) == [10, 20, 30, 40]
    assert validated(trial_recipe(Recipe.named("quick"), {"epochs": 6.0}), rows)[:2] == [10, 20]


@given(
    rows=st.integers(1, 3_000),
    batch_size=st.sampled_from([4, 16, 32]),
    epochs=st.floats(0.1, 8),
    max_steps=st.none() | st.integers(1, 300),
    evals=st.integers(1, 5),
)
def test_every_run_is_validated_at_least_four_times(
    rows: int, batch_size: int, epochs: float, max_steps: int | None, evals: int
) -> None:
    base = Recipe(batch_size=batch_size, max_steps=max_steps, evals_per_epoch=evals)
    recipe = trial_recipe(base, {"epochs": epochs})
    steps = Plan(recipe, rows).total_steps
    # of six steps every second one: a step and a half is rounded
    assert len(validated(recipe, rows)) >= (3 if steps == 6 else min(4, steps))


def test_the_differences_make_the_same_recipe_again() -> None:
    recipe = trial_recipe(Recipe.named("gentle"), {"rank": 4, "dropout": 0.1, "epochs": 2.0})
    assert Recipe.from_differences(differences(recipe)) == recipe
    assert "weight_decay" not in differences(recipe)
    assert changes(Recipe.named("gentle"), recipe)["rank"] == {"from": Recipe.named("gentle").rank, "to": 4}
    assert set(changes(recipe, recipe)) == set()


def test_a_job_leaves_nothing_of_a_trials_recipe_to_be_chosen_from_the_data() -> None:
    for recipe in (Recipe(), trial_recipe(Recipe(), {"epochs": 2.0}), Recipe.from_differences({"tune": "full"})):
        assert planned(Recipe.wanted(differences(recipe)), {}) == (recipe, [])


def test_leaves_out_noise_where_answers_are_compared() -> None:
    assert set(DEFAULT_SPACE) - set(default_space(Recipe(objective="dpo"), continued=False)) == {"neftune_alpha"}


def test_full_fine_tuning_searches_what_it_has_around_its_own_learning_rate() -> None:
    base = Recipe.from_differences({"tune": "full"})
    space = default_space(base, continued=False)
    assert set(DEFAULT_SPACE) - set(space) == {"rank", "dropout"}
    assert base_point(space, base) == {name: getattr(base, name) for name in space}
    assert space["learning_rate"].high == 4 * base.learning_rate
    same_rate = trial_recipe(base, {"learning_rate": Recipe().learning_rate})
    assert Recipe.from_differences(differences(same_rate)) == same_rate
    with pytest.raises(InvalidSpace, match="says nothing in full"):
        checked({"rank": {"choices": (4, 8)}}, base, continued=False)


def test_choices_are_what_a_recipe_makes_of_them() -> None:
    assert checked({"epochs": {"choices": ("1", 2)}}, Recipe(), continued=False)["epochs"].choices == (1.0, 2.0)
    with pytest.raises(InvalidSpace, match="the same"):
        checked({"epochs": {"choices": ("2", 2.0)}}, Recipe(), continued=False)


def test_refuses_a_range_without_an_end() -> None:
    for endless in ({"low": 0, "high": float("inf")}, {"low": 0, "high": 1, "step": float("inf")}):
        with pytest.raises(InvalidSpace, match="finite"):
            checked({"weight_decay": endless}, Recipe(), continued=False)
