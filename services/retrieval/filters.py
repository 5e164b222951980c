"""OpenAI's attribute filters as parameterised SQL over a file's attributes."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from services.retrieval.errors import InvalidFilter

Expression = sa.ColumnElement[bool]
_ORDERED: dict[str, Callable[[Any, Any], Expression]] = {
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
}
_MOST_DEPTH = 8
_MOST_PARTS = 256


def to_sql(found: Any, attributes: Any, *, depth: int = 0) -> Expression:
    """The condition that `found` ({type, key, value} or {type: and|or, filters}) puts on a jsonb column.

    An attribute that is missing, or of another type than the value, equals nothing and is ordered nowhere.
    Raises InvalidFilter, naming the part, for anything else.
    """
    if depth > _MOST_DEPTH:
        raise InvalidFilter(f"Filters nest at most {_MOST_DEPTH} deep.", param="filters")
    if not isinstance(found, dict) or "type" not in found:
        raise InvalidFilter("A filter is an object with a type.", param="filters")
    kind = found["type"]
    if kind in ("and", "or"):
        return _combined(kind, found, attributes, depth)
    key, value = found.get("key"), found.get("value")
    if not isinstance(key, str) or value is None:
        raise InvalidFilter(f"A filter of type {kind!r} needs a key (text) and a value.", param="filters")
    return _compared(kind, attributes, key, value)


def _combined(kind: str, found: dict[str, Any], attributes: Any, depth: int) -> Expression:
    parts = found.get("filters")
    if not isinstance(parts, list) or not 0 < len(parts) <= _MOST_PARTS:
        raise InvalidFilter(f"A filter of type {kind!r} needs a list of 1 to {_MOST_PARTS} filters.", param="filters")
    inner = [to_sql(part, attributes, depth=depth + 1) for part in parts]
    return sa.and_(*inner) if kind == "and" else sa.or_(*inner)


def _compared(kind: str, attributes: Any, key: str, value: Any) -> Expression:
    if kind in ("in", "nin"):
        if not isinstance(value, list) or len(value) > _MOST_PARTS:
            raise InvalidFilter(
                f"A filter of type {kind!r} needs a list of at most {_MOST_PARTS} values.", param="filters"
            )
        among = sa.or_(sa.false(), *(_equals(attributes, key, one) for one in value))
        return among if kind == "in" else sa.not_(among)
    if kind in ("eq", "ne"):
        same = _equals(attributes, key, value)
        return same if kind == "eq" else sa.not_(same)
    if kind in _ORDERED:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidFilter(f"A filter of type {kind!r} compares numbers.", param="filters")
        # only numbers are cast: another file may have text under the same key, and AND does not fix the order
        number = sa.case((sa.func.jsonb_typeof(attributes[key]) == "number", attributes[key].as_float()))
        return sa.func.coalesce(_ORDERED[kind](number, float(value)), sa.false())
    raise InvalidFilter(
        f"Unknown filter type {kind!r}; known: eq, ne, gt, gte, lt, lte, in, nin, and, or.", param="filters"
    )


def _equals(attributes: Any, key: str, value: Any) -> Expression:
    """Containment compares whole values with their types: 1 is 1.0, but neither "1" nor true."""
    if not isinstance(value, bool | int | float | str):
        raise InvalidFilter("A filter's value is text, a number or a boolean.", param="filters")
    contained: Expression = attributes.bool_op("@>")(sa.cast({key: value}, JSONB))
    return contained
