"""What stored completions answer, for the API's description."""

from typing import Any, Literal

from pydantic import ConfigDict

from services.generation.chat_answers import A_COMPLETION, ChatCompletionObject
from services.generation.chat_schemas import ResponseFormat
from shared.answers import Answer

_ID = A_COMPLETION["id"]
A_STORED_COMPLETION: dict[str, Any] = A_COMPLETION | {
    "request_id": "req_abc",
    "input_user": None,
    "seed": 7,
    "temperature": 0.0,
    "top_p": None,
    "presence_penalty": None,
    "frequency_penalty": None,
    "response_format": None,
    "tools": None,
    "tool_choice": None,
    "metadata": {"reviewed": "yes"},
}


class StoredCompletionObject(ChatCompletionObject):
    """OpenAI's ChatCompletion as it was answered, with what was asked."""

    model_config = ConfigDict(json_schema_extra={"examples": [A_STORED_COMPLETION]})

    request_id: str
    """The request's `x-request-id`."""
    input_user: str | None
    """The request's `user`."""
    seed: int | None
    temperature: float | None
    top_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    response_format: ResponseFormat | None
    tools: None
    tool_choice: None
    metadata: dict[str, str]


class DeletedCompletion(Answer):
    """A stored completion that is gone."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": _ID, "object": "chat.completion.deleted", "deleted": True}]}
    )

    id: str
    object: Literal["chat.completion.deleted"]
    deleted: Literal[True]


class SentPart(Answer):
    """A part of a message."""

    type: Literal["text"]
    text: str


class SentMessage(Answer):
    """OpenAI's ChatCompletionStoreMessage: a message that was sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": f"{_ID}-0",
                    "role": "user",
                    "content": "What is the capital of France?",
                    "name": None,
                    "refusal": None,
                    "content_parts": None,
                }
            ]
        }
    )

    id: str
    role: Literal["system", "developer", "user", "assistant"]
    content: str
    """The text, of all parts together."""
    name: None
    refusal: None
    content_parts: list[SentPart] | None
    """The parts, where the text was sent in parts."""
