"""The body and the objects at the HTTP edge of stored completions, and what of a request is kept beside its answer."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, Field

from services.generation.chat_schemas import ChatCompletion, Metadata
from services.generation.stored.tables import StoredCompletion
from shared.body import Body

_SHOWN = {"seed", "temperature", "top_p", "presence_penalty", "frequency_penalty", "response_format"}


class UpdateCompletion(Body):
    """Only the metadata of a stored completion changes."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"metadata": {"reviewed": "yes"}}]})

    metadata: Metadata | None = Field(description="Replaces all pairs; null or {} leaves none.")


def kept_fields(order: ChatCompletion, request_id: str) -> dict[str, Any]:
    """What OpenAI shows of the request beside a stored answer; null where the request left it to the model."""
    asked = order.model_dump(mode="json", by_alias=True, include=_SHOWN)
    return asked | {"request_id": request_id, "input_user": order.user, "tools": None, "tool_choice": None}


def kept_messages(sent: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages of a checked body as they were sent, without fields that say nothing."""
    return [{"role": one["role"], "content": one["content"]} for one in sent]


def completion_object(row: StoredCompletion) -> dict[str, Any]:
    """OpenAI's ChatCompletion as it was answered, with what was asked and its metadata."""
    found: dict[str, Any] = json.loads(row.completion)
    return found | {"metadata": row.metadata_}


def message_objects(row: StoredCompletion) -> list[dict[str, Any]]:
    """OpenAI's ChatCompletionStoreMessage of every message that was sent, in their order."""
    return [_message(f"{row.id}-{index}", one) for index, one in enumerate(json.loads(row.messages))]


def _message(message_id: str, sent: Mapping[str, Any]) -> dict[str, Any]:
    parts = sent["content"] if isinstance(sent["content"], list) else None
    text = sent["content"] if parts is None else "".join(part["text"] for part in parts)
    return {
        "id": message_id,
        "role": sent["role"],
        "content": text,
        "name": None,
        "refusal": None,
        "content_parts": parts,
    }
