"""What comes in over HTTP; options of OpenAI's that we do not honour yet are refused by name."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from services.generation.errors import UnsupportedParameter
from shared.messages import VariantRetrieval, VariantSampling
from shared.prompt_format import PromptSpec

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "store": (False,),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "parallel_tool_calls": (True, False),
}
"""Values that change nothing and are therefore accepted."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class Message(BaseModel):
    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def plain(self) -> dict[str, str]:
        """Role and text; "developer" is what newer clients call the system."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(_Strict):
    include_usage: bool = False


class ChatCompletion(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    seed: int | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None

    @field_validator("seed")
    @classmethod
    def _seed_in_64_bits(cls, value: int | None) -> int | None:
        if value is not None and not -(2**63) <= value < 2**63:
            raise ValueError("a seed has 64 bits")
        return value

    def refuse_unsupported(self) -> None:
        """Raise UnsupportedParameter for the first option that we would otherwise have to ignore."""
        for index, message in enumerate(self.messages):
            # what an earlier answer carries besides its text is empty, and so is what a client fills in
            for name, value in (message.model_extra or {}).items():
                if value not in (None, [], ""):
                    where = f"messages.{index}.{name}"
                    raise UnsupportedParameter(f"{where} is not supported; leave it out.", param=where)
        if self.stream_options is not None and not self.stream:
            raise UnsupportedParameter("stream_options needs stream: true.", param="stream_options")
        for name, value in (self.model_extra or {}).items():
            if value is None or value in _NEUTRAL.get(name, ()):
                continue
            neutral = " or ".join(json.dumps(one) for one in _NEUTRAL.get(name, ()))
            hint = f"only {neutral} is, or leave it out" if neutral else "leave it out"
            raise UnsupportedParameter(f"{name} = {json.dumps(value)[:80]} is not supported; {hint}.", param=name)

    def live_body(self) -> dict[str, Any]:
        """The request as the worker takes it."""
        return {
            "model": self.model,
            "messages": [message.plain() for message in self.messages],
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_completion_tokens or self.max_tokens,
            "stop": self.stop,
            "seed": self.seed,
            "stream": self.stream,
        }


class CreatePrompt(_Strict):
    name: Annotated[str, Field(min_length=1, max_length=200)]
    spec: PromptSpec


class CreateVariant(_Strict):
    name: Annotated[str, Field(min_length=1, max_length=200)]
    base_model: str
    adapter: str | None = None
    prompt: PromptSpec | None = None
    retrieval: VariantRetrieval | None = None
    sampling: VariantSampling = VariantSampling(temperature=0.0, max_tokens=256)


class CreateRelease(_Strict):
    model_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    variant: str
    evidence: dict[str, Any] = {}
