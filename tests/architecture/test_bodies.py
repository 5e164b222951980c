"""Every JSON body refuses what its schema does not allow: it is made of shared.body.Body through and through."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, Field, ValidationError

from services.gateway.app import create_app
from shared.body import Body


def bodies() -> Iterator[type[BaseModel]]:
    for route in iter_route_contexts(create_app().routes):
        field = getattr(route.original_route, "body_field", None)
        if field is not None:
            yield from models(field.field_info.annotation)


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation names, and theirs."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            # a recursive filter names itself; its parts are known by then
            yield from (found for found in models(field.annotation) if found is not annotation)
    for part in get_args(annotation):
        yield from models(part)


def test_every_body_and_every_part_of_one_is_strict() -> None:
    found = set(bodies())
    assert len(found) > 20
    lax = sorted(one.__name__ for one in found if not issubclass(one, Body) or not one.model_config.get("strict"))
    assert not lax, f"inherit from shared.body.Body: {', '.join(lax)}"


class _Part(Body):
    whole: int = 0
    number: float = 0.0
    flag: bool = False
    several: list[int] = Field([])


def test_one_kind_of_number_is_taken_as_json_means_it() -> None:
    part = _Part.model_validate({"whole": 3.0, "number": 2, "several": [1.0, 2]})
    assert (part.whole, part.number, part.several) == (3, 2.0, [1, 2])


@pytest.mark.parametrize(
    "given", [{"whole": "3"}, {"whole": True}, {"whole": 3.5}, {"flag": 0}, {"number": "1"}, {"x": 1}]
)
def test_a_value_of_another_type_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _Part.model_validate(given)
