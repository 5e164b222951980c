"""How an error names the field it is about: as the client wrote it, without the names of our own shapes."""

from collections.abc import Mapping
from typing import Any


def field_named(error: Mapping[str, Any], body: Any) -> str | None:
    """The field of one of pydantic's errors (`loc`, its first part saying where from), such as `items.0.name`.

    Between the steps of a body stand the names of union members, which the client never wrote: a step that the body
    does not have is kept only where it is the field that is missing.
    """
    origin, *place = error["loc"]
    if origin != "body":
        return ".".join(map(str, place)) or None
    steps: list[str] = []
    found: Any = body
    for step in place:
        if _has(found, step):
            found = found[step]
            steps.append(str(step))
    if error["type"] == "missing" and place:
        steps.append(str(place[-1]))
    return ".".join(steps) or None


def _has(found: Any, step: str | int) -> bool:
    if isinstance(found, list):
        return isinstance(step, int) and step < len(found)
    return isinstance(found, Mapping) and step in found
