"""A chat request as it comes in over HTTP: every option of OpenAI's; what we cannot honour is refused by name."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from services.generation.errors import PromptTooLong, UnsupportedParameter
from shared.body import Body

MOST_CHOICES = 128
MOST_MESSAGES = 2048
MOST_CHARACTERS = 1_000_000
"""Of all messages together: more cannot fit a window, and counting their tokens would hold up others."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "function_call": ("none",),
    "parallel_tool_calls": (True, False),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "moderation": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "service_tier": ("auto", "default"),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
}
"""What we cannot honour, with the values that ask for nothing and are therefore accepted, besides null."""
_NEUTRAL_IN_MESSAGES: tuple[Any, ...] = (None, "", [])
"""What an earlier answer carries besides its text is empty, and so is what a client fills in."""


Nothing = Annotated[list[Any], Field(max_length=0)]
Count = Annotated[int, Field(ge=1, strict=True)]
Penalty = Annotated[float, Field(ge=-2, le=2, strict=True, allow_inf_nan=False)]
Bias = Annotated[float, Field(ge=-100, le=100, strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Metadata = Annotated[dict[Key, Annotated[str, StringConstraints(max_length=512)]], Field(max_length=16)]


class TextPart(Body):
    type: Literal["text"]
    text: str


def _joined(content: Any) -> Any:
    """The text of all parts; one error at the field itself, where a union would report its every branch."""
    if not isinstance(content, list):
        return content
    for index, part in enumerate(content):
        if not (isinstance(part, dict) and part.keys() == {"type", "text"} and isinstance(part["text"], str)):
            raise PydanticCustomError("text_part", "part {index} is not of the form type, text", {"index": index})
    return "".join(part["text"] for part in content)


def _listed(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


class Message(Body):
    """One turn: role and text. What an earlier answer carries besides, and what clients fill in, must be empty."""

    role: Literal["system", "developer", "user", "assistant"]
    """"developer" is what newer clients call the system."""
    content: Annotated[str, BeforeValidator(_joined, json_schema_input_type=str | list[TextPart])]
    """Text, or parts of type text, which are joined."""
    name: Literal[""] | None = None
    refusal: Literal[""] | None = None
    annotations: Nothing | None = None
    tool_calls: Nothing | None = None
    function_call: None = None
    audio: None = None

    def plain(self) -> dict[str, str]:
        """Role and text."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class StreamOptions(Body):
    include_usage: Flag = Field(False, description="End the stream with a chunk of no choices that counts the tokens.")
    include_obfuscation: Literal[False] | None = Field(None, description="Only false: chunks carry no padding.")


class TextFormat(Body):
    type: Literal["text"]


class JsonObjectFormat(Body):
    type: Literal["json_object"]


class JsonSchema(Body):
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[
        dict[str, Any],
        Field(alias="schema", description="The schema is always followed to the letter, whatever `strict` says."),
    ] = Field({"type": "object"})
    strict: Flag | None = None


class JsonSchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: JsonSchema


Stops = Annotated[
    Annotated[list[str], Field(max_length=4)],
    BeforeValidator(_listed, json_schema_input_type=str | Annotated[list[str], Field(max_length=4)]),
]
ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class ChatCompletion(Body):
    """OpenAI's chat request."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "smollm2-135m-instruct",
                    "messages": [{"role": "user", "content": "What is the capital of France?"}],
                    "max_completion_tokens": 32,
                }
            ],
        },
    )

    model: str = Field(description="A base model, an adapter (fine-tuned model), a checkpoint, a variant or a release.")
    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    temperature: Annotated[float, Field(ge=0, le=2, strict=True, allow_inf_nan=False)] | None = Field(
        None, description="0 takes the likeliest token."
    )
    top_p: Annotated[float, Field(ge=0, le=1, strict=True, allow_inf_nan=False)] | None = Field(
        None, description="The share of probability to choose among, the likeliest tokens first; 0 takes the likeliest."
    )
    max_tokens: Count | None = Field(None, description="The older name.")
    max_completion_tokens: Count | None = Field(
        None, description="The longest answer in tokens; together with the messages it must fit the model's window."
    )
    stop: Stops | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63, strict=True)] | None = Field(
        None, description="Makes sampling repeatable; the choices after the first count up from it."
    )
    n: Annotated[Count, Field(le=MOST_CHOICES)] | None = Field(None, description="Choices, each sampled on its own.")
    frequency_penalty: Penalty | None = Field(None, description="Counts the tokens of the answer, not of the messages.")
    presence_penalty: Penalty | None = None
    logit_bias: dict[str, Bias] | None = Field(
        None,
        max_length=1024,
        description="Token ids and what to add to their logits.",
        json_schema_extra={"propertyNames": {"pattern": "^[0-9]+$"}},
    )
    logprobs: Flag | None = Field(
        None,
        description="Report each token's log-probability: the model's own, before temperature, penalties, biases and "
        "response_format.",
    )
    top_logprobs: Annotated[int, Field(ge=0, le=20, strict=True)] | None = None
    response_format: ResponseFormat | None = Field(
        None, description="JSON comes without whitespace between its tokens, so that a small budget suffices."
    )
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="Accepted for the caller's own records.")
    safety_identifier: str | None = Field(None, description="As `user`.")
    prompt_cache_key: str | None = Field(None, description="Accepted; it would change no answer.")
    metadata: Metadata | None = Field(None, description="Up to 16 pairs, by which stored completions are found again.")
    store: Flag | None = Field(
        None,
        description="Keep the answer and the messages: GET /v1/chat/completions lists them. An answer that cannot be "
        "stored is an error.",
    )
    tools: Nothing | None = None
    tool_choice: Literal["none"] | None = None
    functions: Nothing | None = None
    function_call: Literal["none"] | None = None
    parallel_tool_calls: Flag | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    audio: None = None
    prediction: None = None
    web_search_options: None = None
    moderation: None = None
    reasoning_effort: Literal["none"] | None = None
    verbosity: Literal["medium"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    prompt_cache_options: None = None
    prompt_cache_retention: None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, data: Any) -> Any:
        """Raise UnsupportedParameter for the first thing that we would otherwise have to ignore."""
        if isinstance(data, dict):
            for name, value in data.items():
                _check_option(name, value, known=name in cls.model_fields)
            _check_messages(data.get("messages"))
        return data

    @field_validator("logit_bias")
    @classmethod
    def _token_ids(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        wrong = next((key for key in value or {} if not (key.isascii() and key.isdigit())), None)
        if wrong is not None:
            raise PydanticCustomError("token_id", "{key} is no token id: the keys are whole numbers", {"key": wrong})
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise UnsupportedParameter("stream_options needs stream: true.", param="stream_options")
        if self.top_logprobs is not None and not self.logprobs:
            raise UnsupportedParameter("top_logprobs needs logprobs: true.", param="top_logprobs")
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise UnsupportedParameter("Give max_completion_tokens or max_tokens, not both.", param="max_tokens")
        if sum(len(message.content) for message in self.messages) > MOST_CHARACTERS:
            raise PromptTooLong(f"The messages have more than {MOST_CHARACTERS} characters.", param="messages")
        return self

    def live_body(self) -> dict[str, Any]:
        """The request as the worker takes it."""
        return {
            "model": self.model,
            "messages": [message.plain() for message in self.messages],
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_completion_tokens or self.max_tokens,
            "max_tokens_param": "max_completion_tokens" if self.max_completion_tokens else "max_tokens",
            "stop": self.stop,
            "seed": self.seed,
            "n": self.n or 1,
            "frequency_penalty": self.frequency_penalty or 0.0,
            "presence_penalty": self.presence_penalty or 0.0,
            "logit_bias": self.logit_bias or {},
            "top_logprobs": (self.top_logprobs or 0) if self.logprobs else None,
            "json_schema": self._schema(),
            "stream": bool(self.stream),
        }

    def _schema(self) -> str | None:
        """The JSON Schema that the answer must satisfy."""
        if isinstance(self.response_format, JsonSchemaFormat):
            return json.dumps(self.response_format.json_schema.schema_)
        return json.dumps({"type": "object"}) if isinstance(self.response_format, JsonObjectFormat) else None


def _check_option(name: str, value: Any, *, known: bool) -> None:
    neutral = _NEUTRAL.get(name)
    if value is None or (known and neutral is None) or any(_same(value, one) for one in neutral or ()):
        return
    hint = f"only {' or '.join(json.dumps(one) for one in neutral)} is, or leave it out" if neutral else "leave it out"
    raise UnsupportedParameter(f"{name} = {_short(value)} is not supported; {hint}.", param=name)


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list):
        return
    if len(messages) > MOST_MESSAGES:
        raise PromptTooLong(f"There are {len(messages)} messages; the limit is {MOST_MESSAGES}.", param="messages")
    for index, message in enumerate(messages):
        if isinstance(message, dict):
            _check_message(f"messages.{index}", message)


def _check_message(where: str, message: dict[str, Any]) -> None:
    for name, value in message.items():
        if name not in {"role", "content"} and value not in _NEUTRAL_IN_MESSAGES:
            raise UnsupportedParameter(f"{where}.{name} is not supported; leave it out.", param=f"{where}.{name}")
    if message.get("role") in ("tool", "function"):
        raise UnsupportedParameter(f"{where}.role: tools are not supported.", param=f"{where}.role")
    parts = message.get("content")
    for index, part in enumerate(parts if isinstance(parts, list) else []):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind is not None and kind != "text":
            param = f"{where}.content.{index}.type"
            raise UnsupportedParameter(f'{param} = {_short(kind)} is not supported; only "text" is.', param=param)


def _same(value: Any, other: Any) -> bool:
    """Equal, and of one type: to Python 0 is False."""
    return type(value) is type(other) and bool(value == other)


def _short(value: Any) -> str:
    return json.dumps(value)[:80]
