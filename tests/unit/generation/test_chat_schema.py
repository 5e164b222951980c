"""What a chat request may ask for, and that nothing it asks is ignored in silence."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from services.generation.chat_schemas import MOST_CHARACTERS, ChatCompletion
from services.generation.errors import PromptTooLong, UnsupportedParameter

HI = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def user(**message: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"} | message]}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"audio": {"voice": "x", "format": "mp3"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"verbosity": "low"}, "verbosity"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"prompt_cache_retention": "24h"}, "prompt_cache_retention"),
        ({"temprature": 0.5}, "temprature"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_tokens": 9, "max_completion_tokens": 5}, "max_tokens"),
        (user(name="Ann"), "messages.0.name"),
        (user(role="tool"), "messages.0.role"),
        (user(role="assistant", tool_calls=[{"id": "x"}]), "messages.0.tool_calls"),
        (user(content=[{"type": "image_url", "image_url": {"url": "x"}}]), "messages.0.content.0.type"),
        (user(content=[{"type": "text", "text": "x"}, {"type": "input_audio"}]), "messages.0.content.1.type"),
    ],
)
def test_refuses_by_name_what_it_cannot_honour(more: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        ChatCompletion.model_validate(HI | more)
    assert caught.value.param == param
    assert param.split(".")[-1] in caught.value.message or param in caught.value.message


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [], "tool_choice": "none", "parallel_tool_calls": True, "functions": None},
        {"modalities": ["text"], "store": False, "service_tier": "auto", "reasoning_effort": "none", "audio": None},
        {"store": True, "metadata": {"a": "b"}},
        {"user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "metadata": {"a": "b"}},
        {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
        user(role="assistant", refusal=None, tool_calls=None, annotations=[], audio=None, function_call=None),
    ],
)
def test_accepts_what_changes_nothing(more: dict[str, Any]) -> None:
    plain = ChatCompletion.model_validate(HI).live_body()
    asked = ChatCompletion.model_validate(HI | more).live_body()
    unchanged = {"messages", "stream"}
    assert {k: v for k, v in asked.items() if k not in unchanged} == {
        k: v for k, v in plain.items() if k not in unchanged
    }


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"n": 129}, "n"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": 5}, "stop"),
        ({"seed": 2**63}, "seed"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"five": 1}}, "logit_bias"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"messages": []}, "messages"),
        (user(content=None), "messages.0.content"),
        (user(content=[{"type": "text"}]), "messages.0.content"),
        (user(role="robot"), "messages.0.role"),
    ],
)
def test_refuses_values_out_of_range_at_their_field(more: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ChatCompletion.model_validate(HI | more)
    assert ".".join(map(str, caught.value.errors()[0]["loc"])) == where


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "x"}] * 2049,
        [{"role": "user", "content": "x" * (MOST_CHARACTERS // 2 + 1)}] * 2,
    ],
)
def test_limits_messages_before_it_counts_their_tokens(messages: list[Any]) -> None:
    with pytest.raises(PromptTooLong) as caught:
        ChatCompletion.model_validate(HI | {"messages": messages})
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


def test_reads_parts_of_text_and_the_newer_names() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    asked = {"messages": [{"role": "developer", "content": parts}], "max_completion_tokens": 5, "stop": "x"}
    body = ChatCompletion.model_validate(HI | asked).live_body()
    assert body["messages"] == [{"role": "system", "content": "ab"}]
    assert (body["max_tokens"], body["max_tokens_param"], body["stop"]) == (5, "max_completion_tokens", ["x"])


def test_passes_every_option_on() -> None:
    options = {"n": 3, "frequency_penalty": 0.5, "presence_penalty": -1, "logit_bias": {"7": -100}, "seed": -1}
    body = ChatCompletion.model_validate(HI | options | {"logprobs": True, "top_logprobs": 4}).live_body()
    assert options.items() <= body.items()
    assert body["top_logprobs"] == 4


@pytest.mark.parametrize(("asked", "passed"), [({}, None), ({"logprobs": False}, None), ({"logprobs": True}, 0)])
def test_reports_log_probabilities_only_when_asked(asked: dict[str, Any], passed: int | None) -> None:
    assert ChatCompletion.model_validate(HI | asked).live_body()["top_logprobs"] == passed


@pytest.mark.parametrize(
    ("form", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "array"}}}, {"type": "array"}),
        ({"type": "json_schema", "json_schema": {"name": "a", "strict": True}}, {"type": "object"}),
    ],
)
def test_turns_every_form_of_answer_into_a_schema(form: dict[str, Any], schema: dict[str, Any] | None) -> None:
    found = ChatCompletion.model_validate(HI | {"response_format": form}).live_body()["json_schema"]
    assert (json.loads(found) if found else None) == schema
