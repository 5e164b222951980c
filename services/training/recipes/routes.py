"""`/recipes`: the named recipes as differences to the default, and every field with its default and its reason."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from services.training.errors import RecipeNotFound
from services.training.recipe import Recipe, recipe_file, recipe_names
from services.training.recipes.answers import RecipeList, RecipeObject
from shared.answers import answering
from shared.web import Caller, caller, page

router = APIRouter(prefix="/recipes", tags=["recipes"])
Who = Annotated[Caller, Depends(caller)]


@router.get("", responses=answering(RecipeList))
def list_recipes(_who: Who) -> dict[str, Any]:
    """Every named recipe, and in `fields` what a recipe may say.

    A field has a `name`, its `default`, a `description` (what it is, its unit, why the default is what it is) and a
    `schema` (JSON schema: its type and bounds). A fine-tuning job takes a recipe's name or `{"base": name, field:
    value, …}` as its `recipe`.
    """
    return page([recipe_object(name) for name in recipe_names()], has_more=False) | {"fields": recipe_fields()}


@router.get("/{recipe_name}", responses=answering(RecipeObject))
def show_recipe(recipe_name: str, _who: Who) -> dict[str, Any]:
    """One recipe: its differences to the default, and in `recipe` every field as it will be used."""
    if recipe_name not in recipe_names():
        raise RecipeNotFound(
            f"There is no recipe {recipe_name!r}; there are {', '.join(recipe_names())}.", param="recipe_name"
        )
    return recipe_object(recipe_name)


def recipe_object(name: str) -> dict[str, Any]:
    description, differences = recipe_file(name)
    return {
        "id": name,
        "object": "recipe",
        "name": name,
        "description": description,
        "differences": differences,
        "recipe": Recipe.named(name).model_dump(mode="json"),
    }


def recipe_fields() -> list[dict[str, Any]]:
    """What `Recipe` says of its fields, in its order."""
    schema = Recipe.model_json_schema()
    fields: dict[str, dict[str, Any]] = schema["properties"]
    about = {"title", "default", "description"}
    return [
        {
            "name": name,
            "default": field["default"],
            "description": " ".join(field["description"].split()),
            "schema": {word: value for word, value in field.items() if word not in about},
        }
        for name, field in fields.items()
    ]
