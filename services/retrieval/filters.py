"""OpenAI's attribute filters as parameterised SQL over a file's attributes."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from services.retrieval.errors import InvalidFilter

Expression = sa.ColumnElement[bool]
_ORDERED: dict[str, Callable[[Any, Any], Expression]] = {
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
}
_MOST_DEPTH = 8


def to_sql(found: Any, attributes: Any, *, depth: int = 0) -> Expression:
    """The condition that `found` ({type, key, value} or {type: and|or, filters}) puts on a jsonb column.

    Raises InvalidFilter, naming the part, for anything else.
    """
    if depth > _MOST_DEPTH:
        raise InvalidFilter(f"Filters nest at most {_MOST_DEPTH} deep.", param="filters")
    if not isinstance(found, dict) or "type" not in found:
        raise InvalidFilter("A filter is an object with a type.", param="filters")
    kind = found["type"]
    if kind in {"and", "or"}:
        return _combined(kind, found, attributes, depth)
    key, value = found.get("key"), found.get("value")
    if not isinstance(key, str) or value is None:
        raise InvalidFilter(f"A filter of type {kind!r} needs a key (text) and a value.", param="filters")
    return _compared(kind, attributes[key], value)


def _combined(kind: str, found: dict[str, Any], attributes: Any, depth: int) -> Expression:
    parts = found.get("filters")
    if not isinstance(parts, list) or not parts:
        raise InvalidFilter(f"A filter of type {kind!r} needs a list of filters.", param="filters")
    inner = [to_sql(part, attributes, depth=depth + 1) for part in parts]
    return sa.and_(*inner) if kind == "and" else sa.or_(*inner)


def _compared(kind: str, attribute: Any, value: Any) -> Expression:
    if kind in {"in", "nin"}:
        if not isinstance(value, list):
            raise InvalidFilter(f"A filter of type {kind!r} needs a list as its value.", param="filters")
        among = sa.or_(*(_equals(attribute, one) for one in value)) if value else sa.false()
        return among if kind == "in" else sa.not_(sa.func.coalesce(among, sa.false()))
    if kind == "eq":
        return _equals(attribute, value)
    if kind == "ne":
        return sa.not_(sa.func.coalesce(_equals(attribute, value), sa.false()))
    if kind in _ORDERED:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidFilter(f"A filter of type {kind!r} compares numbers.", param="filters")
        return _ORDERED[kind](attribute.as_float(), float(value))
    raise InvalidFilter(
        f"Unknown filter type {kind!r}; known: eq, ne, gt, gte, lt, lte, in, nin, and, or.", param="filters"
    )


def _equals(attribute: Any, value: Any) -> Expression:
    if isinstance(value, bool):
        return sa.func.coalesce(attribute.as_boolean() == value, sa.false())
    if isinstance(value, int | float):
        return sa.func.coalesce(attribute.as_float() == float(value), sa.false())
    if isinstance(value, str):
        return sa.func.coalesce(attribute.as_string() == value, sa.false())
    raise InvalidFilter("A filter's value is text, a number or a boolean.", param="filters")
