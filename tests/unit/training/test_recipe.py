"""Recipes are typed, closed, and small differences from one default."""

import inspect

import pytest

from services.training.errors import InvalidRecipe, UnknownRecipe
from services.training.recipe import Recipe, recipe_names


def test_default_is_no_difference() -> None:
    assert Recipe.named("default") == Recipe()


@pytest.mark.parametrize("name", recipe_names())
def test_every_named_recipe_is_valid(name: str) -> None:
    assert Recipe.from_differences(Recipe.named(name).model_dump(mode="json")) == Recipe.named(name)


def test_refuses_unknown_fields_and_names_the_place() -> None:
    with pytest.raises(InvalidRecipe, match=r"recipe\.lerning_rate") as refused:
        Recipe.from_differences({"lerning_rate": 1})
    assert refused.value.param == "recipe.lerning_rate"


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"dropout": 1.0}, {"schedule": "square"}, {"epochs": 0}])
def test_refuses_values_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRecipe):
        Recipe.from_differences(wrong)


def test_refuses_unknown_names_and_lists_the_known() -> None:
    with pytest.raises(UnknownRecipe, match="default"):
        Recipe.named("../order")


def test_differences_may_start_from_a_named_recipe() -> None:
    for name in recipe_names():
        assert Recipe.from_differences({"base": name, "rank": 3}) == Recipe.named(name).model_copy(update={"rank": 3})


def test_documents_every_field() -> None:
    source = inspect.getsource(Recipe).split("@classmethod")[0]
    assert source.count('"""') // 2 - 1 == len(Recipe.model_fields)


@pytest.mark.parametrize("field", ["label_smoothing", "neftune_alpha"])
def test_refuses_what_the_objective_would_ignore(field: str) -> None:
    with pytest.raises(InvalidRecipe, match="not for the objective dpo") as refused:
        Recipe.from_differences({"objective": "dpo", field: 0.1})
    assert refused.value.param == f"recipe.{field}"
