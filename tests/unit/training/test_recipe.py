"""Recipes are typed, closed, and small differences from one default."""

import inspect
import re
from typing import Any

import pytest

from services.training.errors import InvalidRecipe, RecipeNotFound, UnknownRecipe
from services.training.recipe import Recipe, recipe_names
from services.training.recipes.routes import recipe_fields, recipe_object, show_recipe
from shared.web import Caller


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
        assert Recipe.from_differences({"base": name, "seed": 3}) == Recipe.named(name).model_copy(update={"seed": 3})


def test_documents_every_field() -> None:
    source = inspect.getsource(Recipe).split("@classmethod")[0]
    assert source.count('"""') // 2 - 1 == len(Recipe.model_fields)


@pytest.mark.parametrize("field", ["label_smoothing", "neftune_alpha"])
def test_refuses_what_the_objective_would_ignore(field: str) -> None:
    with pytest.raises(InvalidRecipe, match="not for the objective dpo") as refused:
        Recipe.from_differences({"objective": "dpo", field: 0.1})
    assert refused.value.param == f"recipe.{field}"


def test_tells_every_field_with_default_bounds_and_reason() -> None:
    fields = {field["name"]: field for field in recipe_fields()}
    assert fields.keys() == Recipe.model_fields.keys()
    assert all(len(field["description"]) > 20 for field in fields.values())
    assert fields["rank"]["default"] == Recipe().rank
    assert fields["rank"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 1024}
    assert Recipe.model_validate({name: field["default"] for name, field in fields.items()}) == Recipe()


@pytest.mark.parametrize("field", recipe_fields(), ids=lambda field: str(field["name"]))
def test_the_reason_of_a_field_is_that_of_the_default_it_has(field: dict[str, Any]) -> None:
    """No test can tell a good reason; this one tells a default that has none, or that was changed without it."""
    reason = rf"(?<![\w.,:-])`?({'|'.join(map(re.escape, spoken(field['default'])))})`?(: | is |, the default: )\w+"
    assert re.search(reason, field["description"]), field["description"]


def spoken(default: Any) -> list[str]:
    """How a description may write a default."""
    if default is None or isinstance(default, bool):
        return ["None"] if default is None else ["Off"]
    if isinstance(default, str):
        return [default]
    mantissa, exponent = f"{default:e}".split("e")
    return [f"{default:g}", f"{default:,g}", f"{100 * default:g} %", f"{float(mantissa):g}e{int(exponent)}"]


@pytest.mark.parametrize("name", recipe_names())
def test_tells_a_named_recipe_as_its_differences(name: str) -> None:
    told = recipe_object(name)
    assert Recipe.from_differences(told["differences"]).model_dump(mode="json") == told["recipe"]
    assert len(told["description"]) > 20


def test_answers_404_for_a_recipe_that_is_not_there() -> None:
    who = Caller("proj", "p", "org", "key", ("read",), "req")
    assert show_recipe("gentle", who)["differences"] == {"learning_rate": 0.0005, "epochs": 4.0}
    with pytest.raises(RecipeNotFound, match="gentle"):
        show_recipe("nothing", who)
