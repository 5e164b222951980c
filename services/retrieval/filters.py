"""OpenAI's attribute filters: what they look like, and what they mean as parameterised SQL over a file's attributes."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import Field, StringConstraints, model_validator
from sqlalchemy.dialects.postgresql import JSONB

from shared.body import Body

Expression = sa.ColumnElement[bool]
Scalar = str | bool | int | float
_ORDERED: dict[str, Callable[[Any, Any], Expression]] = {
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
}
_MOST_DEPTH = 8
_MOST_PARTS = 256


class ComparisonFilter(Body):
    """One attribute against a value: `in` and `nin` take a list, `gt`, `gte`, `lt` and `lte` a number."""

    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
    key: Annotated[str, StringConstraints(max_length=64)]
    value: Scalar | Annotated[list[Scalar], Field(max_length=_MOST_PARTS)]

    @model_validator(mode="after")
    def _compares_alike(self) -> "ComparisonFilter":
        listed = isinstance(self.value, list)
        if (self.type in {"in", "nin"}) != listed:
            raise ValueError(f"a filter of type {self.type!r} takes {'one value' if listed else 'a list of values'}")
        if self.type in _ORDERED and (isinstance(self.value, bool) or not isinstance(self.value, int | float)):
            raise ValueError(f"a filter of type {self.type!r} compares numbers")
        for one in self.values():
            if not isinstance(one, str) and not -(2**63) < one < 2**63:
                raise ValueError("numbers are finite and below 2^63")
        return self

    def values(self) -> list[Scalar]:
        return self.value if isinstance(self.value, list) else [self.value]


class CompoundFilter(Body):
    """Several filters together."""

    type: Literal["and", "or"]
    filters: Annotated[list["Filter"], Field(min_length=1, max_length=_MOST_PARTS)]


Filter = Annotated[ComparisonFilter | CompoundFilter, Field(discriminator="type")]


def shallow(found: ComparisonFilter | CompoundFilter) -> ComparisonFilter | CompoundFilter:
    """The filter itself; ValueError when it nests too deep or compares with too many values for a planner."""
    level: list[ComparisonFilter | CompoundFilter] = [found]
    parts = 0
    for _ in range(_MOST_DEPTH + 1):
        parts += sum(len(one.values()) if isinstance(one, ComparisonFilter) else 1 for one in level)
        level = [inner for one in level if isinstance(one, CompoundFilter) for inner in one.filters]
        if parts > 4 * _MOST_PARTS:
            raise ValueError(f"filters compare with at most {4 * _MOST_PARTS} values together")
        if not level:
            return found
    raise ValueError(f"filters nest at most {_MOST_DEPTH} deep")


def to_sql(found: ComparisonFilter | CompoundFilter, attributes: Any) -> Expression:
    """The condition that a filter puts on a jsonb column.

    An attribute that is missing, or of another type than the value, equals nothing and is ordered nowhere.
    """
    if isinstance(found, CompoundFilter):
        inner = [to_sql(part, attributes) for part in found.filters]
        return sa.and_(*inner) if found.type == "and" else sa.or_(*inner)
    if found.type in _ORDERED:
        # only numbers are cast: another file may have text under the same key, and AND does not fix the order
        number = sa.case((sa.func.jsonb_typeof(attributes[found.key]) == "number", attributes[found.key].as_float()))
        return sa.func.coalesce(_ORDERED[found.type](number, float(found.values()[0])), sa.false())
    among = sa.or_(sa.false(), *(_equals(attributes, found.key, one) for one in found.values()))
    return among if found.type in {"eq", "in"} else sa.not_(among)


def _equals(attributes: Any, key: str, value: Scalar) -> Expression:
    """Containment compares whole values with their types: 1 is 1.0, but neither "1" nor true."""
    contained: Expression = attributes.bool_op("@>")(sa.cast({key: value}, JSONB))
    return contained
