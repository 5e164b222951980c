"""What the recipes' routes answer, for the API's description."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from services.training.recipe import Recipe
from shared.answers import Answer, Page

_RECIPE: dict[str, Any] = {
    "id": "gentle",
    "object": "recipe",
    "name": "gentle",
    "description": "Half the learning rate and one more pass.",
    "differences": {"epochs": 4.0, "learning_rate": 0.0005},
    "recipe": Recipe(epochs=4.0, learning_rate=0.0005).model_dump(mode="json"),
}


class RecipeObject(Answer):
    """A named recipe."""

    model_config = ConfigDict(json_schema_extra={"examples": [_RECIPE]})

    id: str
    object: Literal["recipe"]
    name: str
    description: str
    """What it is for."""
    differences: dict[str, Any]
    """The fields that are not the default's."""
    recipe: Recipe
    """Every field as it will be used."""


class RecipeField(Answer):
    """One field that a recipe may set."""

    name: str
    default: Any
    description: str
    """What it is, its unit, why the default is what it is."""
    schema_: dict[str, Any] = Field(alias="schema")
    """JSON Schema: its type and bounds."""


class RecipeList(Page[RecipeObject]):
    """Every named recipe, on one page, and what a recipe may say."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "list",
                    "data": [_RECIPE],
                    "first_id": "gentle",
                    "last_id": "gentle",
                    "has_more": False,
                    "fields": [
                        {
                            "name": "epochs",
                            "default": 3.0,
                            "description": "Passes over the training examples.",
                            "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": 1000},
                        }
                    ],
                }
            ]
        }
    )

    fields: list[RecipeField]
