"""Errors name fields as the client wrote them."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.field_names import field_named


class Cat(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]


class House(BaseModel):
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]
    name: str | list[str] = ""
    tags: dict[Annotated[str, Field(max_length=3)], str] = {}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"pets": [{"kind": "dog"}, {"kind": "cat", "lives": "x"}]}, "pets.1.lives"),
        ({"pets": [{"kind": "cat"}]}, "pets.0.lives"),
        ({"pets": [{"kind": "cat", "lives": 9, "cat": 1}]}, "pets.0.cat"),
        ({"pets": [{"kind": "cow"}]}, "pets.0"),
        ({"pets": [{}]}, "pets.0"),
        ({"pets": [], "name": 5}, "name"),
        ({"pets": [], "name": ["a", 5]}, "name"),
        ({"pets": [], "tags": {"long": ""}}, "tags.long"),
        ({}, "pets"),
        ([], None),
    ],
)
def test_names_the_field_that_the_client_wrote(body: Any, field: str | None) -> None:
    with pytest.raises(ValidationError) as caught:
        House.model_validate(body)
    first = caught.value.errors()[0]
    assert field_named(first | {"loc": ("body", *first["loc"])}, body) == field


def test_names_a_parameter_of_the_query_even_if_it_is_called_body() -> None:
    assert field_named({"type": "missing", "loc": ("query", "body")}, None) == "body"
    assert field_named({"type": "int_parsing", "loc": ("query", "limit")}, {"limit": 1}) == "limit"
