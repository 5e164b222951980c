"""`auto` is chosen from the data by the rule that the module states; every number survives the way there and back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.training.hyperparameters import echoed, planned, resolved
from services.training.recipe import Recipe


def from_data(examples: int, **asked: float | str) -> dict[str, float | str]:
    recipe, auto = planned(Recipe(), asked)
    return echoed(resolved(recipe, auto, examples))


@pytest.mark.parametrize(
    ("examples", "epochs", "batch_size", "multiplier"),
    [
        (1, 10, 1, 0.25),
        (10, 10, 1, 0.25),
        (50, 8, 4, 0.5),
        (64, 7, 4, 0.5),
        (256, 7, 16, 1.0),
        (1000, 3, 16, 1.0),
        (2000, 3, 16, 1.0),
        (3000, 2, 16, 1.0),
        (6000, 1, 16, 1.0),
        (1_000_000, 1, 16, 1.0),
    ],
)
def test_chooses_auto_from_the_number_of_examples(
    examples: int, epochs: int, batch_size: int, multiplier: float
) -> None:
    chosen = from_data(examples, n_epochs="auto", batch_size="auto")
    assert chosen == {"n_epochs": epochs, "batch_size": batch_size, "learning_rate_multiplier": multiplier}


@given(st.integers(1, 100_000))
def test_auto_keeps_its_promises_for_any_number_of_examples(examples: int) -> None:
    chosen = from_data(examples)
    epochs, batch_size = int(chosen["n_epochs"]), int(chosen["batch_size"])
    assert 1 <= epochs <= 10
    assert batch_size in {1, 2, 4, 8, 16}
    steps = epochs * math.ceil(examples / batch_size)
    assert steps >= 100 or epochs == 10
    assert epochs * examples <= 6_000 * 1.5 or epochs == 1


def test_a_number_is_kept_and_the_others_follow_from_the_data() -> None:
    assert from_data(64, batch_size=2) == {
        "n_epochs": 4,
        "batch_size": 2,
        "learning_rate_multiplier": round(math.sqrt(2 / 16), 6),
    }


def test_a_recipe_that_names_a_value_is_not_overruled_by_auto() -> None:
    recipe, auto = planned(Recipe.wanted({"epochs": 2.5, "batch_size": 3}), {"n_epochs": "auto"})
    assert auto == ["learning_rate_multiplier"]
    assert echoed(recipe, auto) == {"n_epochs": 2.5, "batch_size": 3, "learning_rate_multiplier": "auto"}
    gentle, auto = planned(Recipe.wanted("gentle"), {})
    assert (gentle.epochs, gentle.learning_rate, auto) == (4.0, 0.0005, ["batch_size"])


def test_numbers_survive_the_round_trip() -> None:
    wanted = {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 0.5}
    recipe, auto = planned(Recipe(), wanted)
    assert auto == []
    assert echoed(recipe) == wanted
    assert recipe.learning_rate == pytest.approx(0.5e-3)


def test_the_epochs_that_were_asked_for_are_all_trained() -> None:
    assert planned(Recipe(), {"n_epochs": 9})[0].patience is None
    assert planned(Recipe(), {"n_epochs": "auto"})[0].patience == Recipe().patience
    assert planned(Recipe.wanted({"patience": 2}), {"n_epochs": 9})[0].patience == 2


def test_dpo_has_a_beta_and_a_learning_rate_of_its_own() -> None:
    recipe, auto = planned(Recipe.wanted({"objective": "dpo"}), {"beta": "auto"})
    assert (recipe.beta, recipe.learning_rate) == (0.1, 1e-4)
    assert echoed(resolved(recipe, auto, 256))["learning_rate_multiplier"] == 1.0
    recipe, _ = planned(Recipe.wanted({"objective": "dpo"}), {"beta": 0.3, "learning_rate_multiplier": 2.0})
    assert recipe.learning_rate == pytest.approx(2e-4)
    assert echoed(recipe)["beta"] == 0.3
