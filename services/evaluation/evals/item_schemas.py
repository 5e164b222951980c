"""The JSON Schema of an eval's rows: checked when the eval is made, applied to every row, and never a danger.

Nothing is fetched for a `$ref`, a check ends when it has computed for its share, and depth is bounded by Python's own
stack, so that a tenant's schema cannot hold up a process that serves others.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import regex  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from referencing import Registry
from referencing.exceptions import Unresolvable

from services.evaluation.errors import InvalidItem, InvalidItemSchema
from services.evaluation.evals.bounded_validator import LeadsToNoSchema, TooMuchWork, at_most, bounded_validator

_SCHEMA_SECONDS = 5.0
_ROW_SECONDS = 1.0
ORDER_SECONDS = 10.0
"""What all rows of one order may compute: the gateway checks them, beside all other requests."""
FILE_SECONDS = 600.0
"""The same for the rows of a file, which a worker checks."""
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
    formats = Draft202012Validator.FORMAT_CHECKER
    judge = bounded_validator()(Draft202012Validator.META_SCHEMA, registry=Registry(), format_checker=formats)
    try:
        with at_most(_SCHEMA_SECONDS):
            found = next(judge.iter_errors(schema), None)
    except RecursionError as error:
        raise InvalidItemSchema(f"{param} is nested too deeply.", param=param) from error
    except (TooMuchWork, TimeoutError) as error:
        raise InvalidItemSchema(f"{param} takes too long to read: make it smaller.", param=param) from error
    if found is not None:
        where = ".".join([param, *map(str, found.absolute_path)])
        raise InvalidItemSchema(f"{where} is no JSON Schema: {found.message}", param=param)
    if schema.get("type", "object") != "object":
        raise InvalidItemSchema(f'{param}.type must be "object": an item has fields.', param=f"{param}.type")
    _refuse_patterns(schema, param)


class Rows:
    """Checks rows against one schema, all of them within some seconds of computing."""

    def __init__(self, schema: dict[str, Any], *, seconds: float = ORDER_SECONDS) -> None:
        self._validator = bounded_validator()(schema, registry=Registry())
        self._seconds_left = seconds

    def check(self, item: Any, *, name: str, param: str | None = None) -> None:
        """Raise InvalidItem; `name` is what the row is called in the message."""
        try:
            with self._computing():
                found = best_match(self._validator.iter_errors(item))
        except RecursionError as error:
            raise InvalidItem(f"{name}: the schema refers to itself without end.", param=param) from error
        except Unresolvable as error:
            raise InvalidItem(
                f"{name}: the schema's $ref {error.ref!r} leads nowhere; nothing is fetched.", param=param
            ) from error
        except LeadsToNoSchema as error:
            raise InvalidItem(f"{name}: the schema's $ref {error.ref!r} leads to no schema.", param=param) from error
        except TooMuchWork as error:
            raise InvalidItem(f"{name}: {_too_long(self._seconds_left)}", param=param) from error
        except TimeoutError as error:
            raise InvalidItem(f"{name}: a pattern of the schema takes too long to search.", param=param) from error
        if found is not None:
            where = ".".join(["item", *map(str, found.absolute_path)])
            raise InvalidItem(f"{name}: {where}: {found.message}", param=param)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        began = time.thread_time()
        try:
            with at_most(min(_ROW_SECONDS, self._seconds_left)):
                yield
        finally:
            self._seconds_left -= time.thread_time() - began


def _too_long(seconds_left: float) -> str:
    if seconds_left > 0:
        return "the schema takes too long to check this row; make it simpler."
    return "the rows before it took all the time for checking; make the schema simpler, or bring the rows in a file."


def _refuse_patterns(schema: Any, where: str) -> None:
    """Patterns that do not compile, and patterns for names, which nothing bounds, wherever a `$ref` may find them."""
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
        _refuse_patterns(inside, f"{where}.{name}")
