"""Text with variables such as `{{item.question}}`: looked up, never evaluated.

A variable is a path of names and list places (`item.a.b`, `sample.choices[0].message.content`) into one of the two
namespaces, the data source's row and the model's answer to it. What is looked up is never read as a template again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.evaluation.errors import InvalidTemplate, MissingVariable

NAMESPACES = ("item", "sample")
_OPEN, _CLOSE = "{{", "}}"
_MOST_STEPS = 20
_SHOWN = 60
# where a schema can allow names that `properties` does not list, it does not tell
_OPEN_ENDED = ("$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "patternProperties", "additionalProperties")


@dataclass(frozen=True)
class Variable:
    """A path into a namespace; its text is how people wrote it."""

    text: str
    path: tuple[str, ...]


@dataclass(frozen=True)
class Template:
    """Plain pieces of text and variables, in their order."""

    pieces: tuple[str | Variable, ...]

    @property
    def variables(self) -> tuple[Variable, ...]:
        return tuple(piece for piece in self.pieces if isinstance(piece, Variable))

    def render(self, scope: Mapping[str, Any]) -> str:
        """The text with every variable's value: strings as they are, all else as JSON. Raises MissingVariable."""
        return "".join(
            as_text(look_up(scope, piece)) if isinstance(piece, Variable) else piece for piece in self.pieces
        )


def parse(text: str, *, param: str | None = None) -> Template:
    """Take a template apart; raises InvalidTemplate for braces that hold no variable."""
    pieces: list[str | Variable] = []
    here = 0
    while (opened := text.find(_OPEN, here)) >= 0:
        inside = opened + len(_OPEN)
        closed = text.find(_CLOSE, inside)
        if closed < 0:
            raise InvalidTemplate(f"{_OPEN} is not closed: {_shown(text[inside : inside + _SHOWN + 1])}", param=param)
        if here < opened:
            pieces.append(text[here:opened])
        pieces.append(variable(text[inside:closed], param=param))
        here = closed + len(_CLOSE)
    if here < len(text):
        pieces.append(text[here:])
    return Template(tuple(pieces))


def variable(text: str, *, param: str | None = None) -> Variable:
    """The path that `item.a.b` or `sample.choices[0]` names; raises InvalidTemplate."""
    text = text.strip()
    path = tuple(text.replace("[", ".").replace("]", "").split("."))
    wellformed = all(_is_name(step) for step in path) and _brackets_hold_places(text)
    if not wellformed or path[0] not in NAMESPACES or len(path) > _MOST_STEPS:
        raise InvalidTemplate(
            f"{_shown(text)} is no variable. Between {{{{ and }}}} stands a path such as item.question or "
            "sample.output_text; nothing is computed there.",
            param=param,
        )
    return Variable(text, path)


def look_up(scope: Mapping[str, Any], wanted: Variable) -> Any:
    """The variable's value; raises MissingVariable, naming the step that is not there."""
    found: Any = scope
    for number, step in enumerate(wanted.path):
        if isinstance(found, Mapping) and step in found:
            found = found[step]
        elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        else:
            where = ".".join(wanted.path[:number]) or "the template's scope"
            raise MissingVariable(f"{wanted.text}: there is no {step!r} in {where}.", param=wanted.text)
    return found


def check(template: Template, schema: Mapping[str, Any], *, of: str, param: str) -> None:
    """Raise InvalidTemplate for the first variable of which the schema tells that it cannot be there.

    `of` names what holds the template, as its owner knows it; `param` is the field.
    """
    for one in template.variables:
        unknown = _unknown_step(schema, one.path)
        if unknown is not None:
            step, known = unknown
            listed = f" It has: {', '.join(sorted(known))}." if known else ""
            raise InvalidTemplate(
                f"{of}: {{{{{one.text}}}}} names {step!r}, which the schema does not have.{listed}", param=param
            )


def as_text(value: Any) -> str:
    """How a value stands in a text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _unknown_step(schema: Any, path: tuple[str, ...]) -> tuple[str, list[str]] | None:
    for step in path:
        if not isinstance(schema, Mapping) or any(schema.get(name) for name in _OPEN_ENDED):
            return None
        if step.isdecimal() and "items" in schema:
            schema = schema["items"]
            continue
        properties = schema.get("properties")
        if not isinstance(properties, Mapping):
            return None
        if step not in properties:
            return step, list(properties)
        schema = properties[step]
    return None


def _is_name(step: str) -> bool:
    """Anything that needs no quotes: letters, digits, `_` and `-`, as in JSON keys that people choose."""
    return bool(step) and all(character.isalnum() or character in "_-" for character in step)


def _brackets_hold_places(text: str) -> bool:
    parts = text.split("[")
    return "]" not in parts[0] and all(
        part.partition("]")[0].isdecimal() and part.count("]") == 1 and part.partition("]")[2][:1] in {"", "."}
        for part in parts[1:]
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")
