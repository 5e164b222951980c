"""Chat requests of a run: the messages that a row fills in, and the body that the generation service takes."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from services.evaluation.errors import MissingVariable
from services.evaluation.evals import templates
from services.evaluation.evals.run_schemas import ItemReference, Sampling, Template
from services.evaluation.evals.schemas import InputMessage

SEED = 42
"""Where the client names none: a run that is repeated says the same."""
_ROLES = {"developer": "system", "system": "system", "user": "user", "assistant": "assistant"}
"""The roles that chat templates of models know; "developer" is what newer clients call the system."""


class MessageTemplates:
    """Messages with variables, taken apart once for all rows."""

    def __init__(self, messages: Sequence[InputMessage]) -> None:
        self._messages = [(_ROLES[message.role], templates.parse(message.text)) for message in messages]

    def render(self, scope: Mapping[str, Any]) -> list[dict[str, str]]:
        """Roles and texts; raises MissingVariable."""
        return [{"role": role, "content": template.render(scope)} for role, template in self._messages]


class ReferredMessages:
    """Messages that every row brings itself."""

    def __init__(self, reference: str) -> None:
        self._variable = templates.variable(reference)

    def render(self, scope: Mapping[str, Any]) -> list[dict[str, str]]:
        """Roles and texts; raises MissingVariable where the row has no chat messages there."""
        found = templates.look_up(scope, self._variable)
        if not isinstance(found, list) or not found:
            raise MissingVariable(f"{self._variable.text} is no list of chat messages.", param=self._variable.text)
        return [self._message(number, one) for number, one in enumerate(found)]

    def _message(self, number: int, found: Any) -> dict[str, str]:
        where = f"{self._variable.text}.{number}"
        role = _ROLES.get(str(found.get("role"))) if isinstance(found, Mapping) else None
        if role is None:
            raise MissingVariable(f"{where} is no chat message with a role of {', '.join(_ROLES)}.", param=where)
        content = found.get("content")
        parts = content if isinstance(content, list) else [content]
        said = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
        texts = [text for text in said if isinstance(text, str)]
        if len(texts) < len(said):
            raise MissingVariable(f"{where}.content is no text.", param=f"{where}.content")
        return {"role": role, "content": "".join(texts)}


def messages_of(found: Template | ItemReference) -> MessageTemplates | ReferredMessages:
    """What renders a run's messages."""
    return (
        ReferredMessages(found.item_reference) if isinstance(found, ItemReference) else MessageTemplates(found.template)
    )


def body(model: str, messages: Sequence[Mapping[str, str]], sampling: Sampling) -> dict[str, Any]:
    """The live request for one row's answer."""
    schema = sampling.schema_wanted()
    return {
        "model": model,
        "messages": list(messages),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_completion_tokens,
        "seed": SEED if sampling.seed is None else sampling.seed,
        "json_schema": None if schema is None else json.dumps(schema),
        "stream": False,
    }
