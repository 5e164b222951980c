"""A JSON Schema validator for strangers' schemas: nothing is fetched, and no schema holds up the process.

Two kilobytes of schema can ask for 2^40 steps (`allOf` of two references to the next of forty definitions), so a check
stops once it has computed for its share. Only the thread's own computing counts, not its waiting: a busy machine
refuses no more than an idle one.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import regex  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

_PATTERN_SECONDS = 0.25
_LONGEST_MESSAGE = 300
_ends_at: ContextVar[float] = ContextVar("ends_at")
"""By `time.thread_time()`."""
_Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class TooMuchWork(Exception):
    """The check has computed for all the time that it may."""


class LeadsToNoSchema(Exception):
    """A `$ref` that finds a text, a number or a list, or a place within one."""

    def __init__(self, ref: str) -> None:
        super().__init__(ref)
        self.ref = ref


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Let this thread validate for so long; beyond it, validating raises TooMuchWork."""
    before = _ends_at.set(time.thread_time() + seconds)
    try:
        yield
    finally:
        _ends_at.reset(before)


@lru_cache(maxsize=1)
def bounded_validator() -> Any:
    """The class of validators; they work within `at_most` only."""
    keywords: dict[str, _Keyword] = Draft202012Validator.VALIDATORS | {"pattern": _pattern, "uniqueItems": _unique}
    made = extend(Draft202012Validator, {name: _counted(keyword) for name, keyword in keywords.items()})
    fields = [(one.name, one.alias) for one in made.__attrs_attrs__ if one.init]

    def evolve(self: Any, **changes: Any) -> Any:
        return made(**{alias: getattr(self, name) for name, alias in fields} | changes)

    # the library's own hands a part that has a "$schema" over to that schema's usual validator, which nothing bounds
    made.evolve = evolve
    made._validate_reference = _validate_reference
    return made


def _validate_reference(validator: Any, ref: str, instance: Any) -> Any:
    """As the library's own, which takes whatever a reference finds for a schema."""
    try:
        found = validator._resolver.lookup(ref)
    except (ValueError, TypeError) as error:  # a pointer into a list by a name, or into a number
        raise LeadsToNoSchema(ref) from error
    if not isinstance(found.contents, dict | bool):
        raise LeadsToNoSchema(ref)
    return validator.descend(instance, found.contents, resolver=found.resolver)


def _counted(keyword: _Keyword) -> _Keyword:
    def checked(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        _check_time()
        for error in keyword(validator, value, instance, schema) or ():
            _check_time()
            error.message = error.message[:_LONGEST_MESSAGE]  # a keyword quotes the whole value, and may fail often
            yield error

    return checked


def _check_time() -> None:
    if time.thread_time() > _ends_at.get():
        raise TooMuchWork


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not regex.search(pattern, instance, timeout=_PATTERN_SECONDS, concurrent=True):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _unique(_validator: Any, wanted: bool, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    """The library compares every object with every other one, which nothing could interrupt."""
    if wanted and isinstance(instance, list):
        texts = {json.dumps(_alike(one), sort_keys=True) for one in instance}
        if len(texts) < len(instance):
            yield ValidationError(f"{instance!r} has non-unique elements")


def _alike(value: Any) -> Any:
    """The value with 1.0 as 1, which JSON Schema holds for equal."""
    if isinstance(value, list):
        return [_alike(one) for one in value]
    if isinstance(value, dict):
        return {name: _alike(one) for name, one in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value
