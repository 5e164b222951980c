"""The JSON Schema of an eval's rows: checked when the eval is made, applied to every row, and never a danger.

Nothing is fetched for a `$ref`, a `pattern` may search for a quarter of a second, and depth is bounded by Python's own
stack, so that a tenant's schema cannot hold up a process that serves others.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import regex  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from services.evaluation.errors import InvalidItem, InvalidItemSchema

_PATTERN_SECONDS = 0.25
_TEXT = {"type": "string"}
SAMPLE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "output_text": _TEXT,
        "output_json": {"type": "object", "additionalProperties": True},
        "output_tools": {"type": "array", "items": {"type": "object", "additionalProperties": True}},
        "model": _TEXT,
        "choices": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "message": {
                        "type": "object",
                        "properties": {"role": {"type": "string", "enum": ["assistant"]}, "content": _TEXT},
                        "required": ["role", "content"],
                    },
                    "finish_reason": _TEXT,
                },
                "required": ["message"],
            },
        },
    },
    "required": ["model", "choices"],
}
"""What templates find under `sample`."""


def whole(item_schema: dict[str, Any], *, with_sample: bool) -> dict[str, Any]:
    """The schema that an eval shows: its `item` namespace and, where answers are expected, `sample`."""
    properties = {"item": item_schema} | ({"sample": SAMPLE_SCHEMA} if with_sample else {})
    return {"type": "object", "properties": properties, "required": list(properties)}


def check_schema(schema: dict[str, Any], *, param: str) -> None:
    """Raise InvalidItemSchema unless rows can be checked against it."""
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = ".".join([param, *map(str, error.absolute_path)])
        raise InvalidItemSchema(f"{where} is no JSON Schema: {error.message[:300]}", param=param) from error
    except RecursionError as error:
        raise InvalidItemSchema(f"{param} is nested too deeply.", param=param) from error
    if schema.get("type", "object") != "object":
        raise InvalidItemSchema(f'{param}.type must be "object": an item has fields.', param=f"{param}.type")
    _refuse_patterns(schema, param)


class Rows:
    """Checks rows against one schema."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._validator = _bounded()(schema, registry=Registry())

    def check(self, item: Any, *, name: str, param: str | None = None) -> None:
        """Raise InvalidItem; `name` is what the row is called in the message."""
        try:
            found = best_match(self._validator.iter_errors(item))
        except RecursionError as error:
            raise InvalidItem(f"{name}: the schema refers to itself without end.", param=param) from error
        except Unresolvable as error:
            raise InvalidItem(
                f"{name}: the schema's $ref {error.ref!r} leads nowhere; nothing is fetched.", param=param
            ) from error
        except TimeoutError as error:
            raise InvalidItem(f"{name}: a pattern of the schema takes too long to search.", param=param) from error
        if found is not None:
            where = ".".join(["item", *map(str, found.absolute_path)])
            raise InvalidItem(f"{name}: {where}: {found.message[:300]}", param=param)


@lru_cache(maxsize=1)
def _bounded() -> Any:
    return extend(Draft202012Validator, {"pattern": _pattern})


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not regex.search(pattern, instance, timeout=_PATTERN_SECONDS, concurrent=True):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _refuse_patterns(schema: Any, where: str) -> None:
    """Patterns that do not compile, and patterns for names, which nothing bounds."""
    if isinstance(schema, list):
        for index, one in enumerate(schema):
            _refuse_patterns(one, f"{where}.{index}")
    if not isinstance(schema, Mapping):
        return
    if isinstance(schema.get("patternProperties"), Mapping):
        raise InvalidItemSchema(
            f"{where}.patternProperties is not supported: list the names under properties.", param=where
        )
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        try:
            regex.compile(pattern)
        except regex.error as error:
            raise InvalidItemSchema(f"{where}.pattern does not compile: {error}", param=where) from error
    for name, inside in schema.items():
        if name not in {"enum", "const", "default", "examples"}:
            _refuse_patterns(inside, f"{where}.{name}")
