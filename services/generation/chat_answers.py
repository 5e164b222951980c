"""What chats answer, for the API's description."""

from typing import Any, Literal

from pydantic import ConfigDict

from shared.answers import Answer

_TOKEN = {"token": "Paris", "logprob": -0.12, "bytes": [80, 97, 114, 105, 115]}
A_COMPLETION: dict[str, Any] = {
    "id": "chatcmpl-abc",
    "object": "chat.completion",
    "created": 1767225600,
    "model": "smollm2-135m-instruct",
    "system_fingerprint": "fp_3f9a1c2e4b",
    "service_tier": None,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Paris", "refusal": None},
            "finish_reason": "stop",
            "logprobs": {"content": [_TOKEN | {"top_logprobs": [_TOKEN]}], "refusal": None},
        }
    ],
    "usage": {
        "prompt_tokens": 37,
        "completion_tokens": 2,
        "total_tokens": 39,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    },
    "citations": [
        {
            "file_id": "file-abc",
            "document": "france.md",
            "passage_id": "passage_abc",
            "title": "France",
            "text": "The capital of France is Paris.",
            "score": 0.83,
        }
    ],
}


class AnsweredMessage(Answer):
    """The answer's text."""

    role: Literal["assistant"]
    content: str
    refusal: None


class LikelyToken(Answer):
    """A token that could have stood there."""

    token: str
    """Bytes that are no whole character are escaped."""
    logprob: float
    """The natural logarithm of the probability that the model itself gave it; -9999 for none."""
    bytes: list[int]


class ChosenToken(LikelyToken):
    """A token of the answer."""

    top_logprobs: list[LikelyToken]
    """The likeliest in its place, the likeliest first; as many as were asked for."""


class Logprobs(Answer):
    """How probable each token of the answer was."""

    content: list[ChosenToken]
    refusal: None


class ChatChoice(Answer):
    """One answer to the messages."""

    index: int
    message: AnsweredMessage
    finish_reason: Literal["stop", "length"]
    """`length`: the limit of tokens cut it off."""
    logprobs: Logprobs | None
    """Null unless asked for."""


class PromptTokens(Answer):
    """OpenAI's parts of a count; nothing here is cached or audio."""

    cached_tokens: Literal[0]
    audio_tokens: Literal[0]


class CompletionTokens(Answer):
    """OpenAI's parts of a count; there are none of these here."""

    reasoning_tokens: Literal[0]
    audio_tokens: Literal[0]
    accepted_prediction_tokens: Literal[0]
    rejected_prediction_tokens: Literal[0]


class ChatUsage(Answer):
    """The tokens that were used, by all choices together."""

    prompt_tokens: int
    """Of the messages as the model read them, passages included."""
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens
    completion_tokens_details: CompletionTokens


class Citation(Answer):
    """A passage that the model read; `score` is comparable within one answer only."""

    file_id: str
    document: str
    """The document's file name within the corpus."""
    passage_id: str
    title: str
    text: str
    score: float


class ChatCompletionObject(Answer):
    """OpenAI's ChatCompletion, with `citations`; a stream's events are its chunks."""

    model_config = ConfigDict(json_schema_extra={"examples": [A_COMPLETION]})

    id: str
    object: Literal["chat.completion"]
    created: int
    """Unix seconds."""
    model: str
    """As the request named it."""
    system_fingerprint: str
    """The same as long as the same weights, prompt and retrieval answer."""
    service_tier: None
    choices: list[ChatChoice]
    usage: ChatUsage
    citations: list[Citation]
    """Empty unless a variant retrieves."""
