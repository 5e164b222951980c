"""What a chat request may ask for, and that nothing it asks is ignored in silence."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import ValidationError

from services.generation.chat import chunks
from services.generation.errors import UnsupportedParameter
from services.generation.schemas import ChatCompletion
from shared.errors import DeadlineExceeded
from shared.live import Reply

HI = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"temprature": 0.5}, "temprature"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": [{"role": "user", "content": "Hi", "name": "Ann"}]}, "messages.0.name"),
    ],
)
def test_refuses_by_name_what_it_cannot_honour(more: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter, match=param) as caught:
        ChatCompletion.model_validate(HI | more).refuse_unsupported()
    assert caught.value.param == param


@pytest.mark.parametrize(
    "more",
    [
        {"n": 1},
        {"logprobs": False, "frequency_penalty": 0.0, "response_format": {"type": "text"}},
        {"user": "u", "metadata": {"a": "b"}},
        {"messages": [{"role": "assistant", "content": "Hello", "refusal": None, "tool_calls": None}]},
    ],
)
def test_accepts_what_changes_nothing(more: dict[str, Any]) -> None:
    ChatCompletion.model_validate(HI | more).refuse_unsupported()


@pytest.mark.parametrize(
    "more",
    [
        {"temperature": 2.1},
        {"top_p": 0},
        {"max_tokens": 0},
        {"stop": ["a", "b", "c", "d", "e"]},
        {"seed": 2**63},
        {"messages": []},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    ],
)
def test_refuses_values_out_of_range(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ChatCompletion.model_validate(HI | more)


def test_reads_parts_of_text_and_the_newer_names() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    asked = {"messages": [{"role": "developer", "content": parts}], "max_tokens": 9, "max_completion_tokens": 5}
    body = ChatCompletion.model_validate(HI | asked).live_body()
    assert body["messages"] == [{"role": "system", "content": "ab"}]
    assert body["max_tokens"] == 5


def events(*replies: Reply | DeadlineExceeded, include_usage: bool = False) -> list[Any]:
    async def source() -> AsyncIterator[Reply]:
        for reply in replies:
            if isinstance(reply, DeadlineExceeded):
                raise reply
            yield reply

    async def collect() -> list[str]:
        return [event async for event in chunks(source(), "m", include_usage=include_usage)]

    lines = asyncio.run(collect())
    assert lines.pop() == "data: [DONE]\n\n"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


DONE = Reply("done", {"finish_reason": "stop", "citations": [], "usage": {"total_tokens": 3}})


def test_streams_role_text_reason_and_usage_under_one_id() -> None:
    found = events(Reply("delta", {"text": "Grü"}), Reply("delta", {"text": "ße"}), DONE, include_usage=True)
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [event["choices"][0]["delta"]["content"] for event in found[1:3]] == ["Grü", "ße"]
    assert found[3]["choices"][0]["finish_reason"] == "stop"
    assert (found[4]["choices"], found[4]["usage"]) == ([], {"total_tokens": 3})
    assert len({event["id"] for event in found}) == 1


def test_sends_no_usage_unasked() -> None:
    assert all("usage" not in event for event in events(DONE))


def test_ends_a_stream_that_fails_with_the_error_itself() -> None:
    found = events(Reply("delta", {"text": "a"}), DeadlineExceeded("late"))
    assert found[-1]["error"] == {
        "message": "late",
        "type": "server_error",
        "param": None,
        "code": "deadline_exceeded",
    }
