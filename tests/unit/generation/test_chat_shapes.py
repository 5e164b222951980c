"""OpenAI's chunks and completions out of live replies."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from services.generation.chat import chunks, completion
from shared.errors import DeadlineExceeded, QuotaExceeded
from shared.live import Reply


def events(*replies: Reply | DeadlineExceeded, **options: Any) -> list[Any]:
    """Each event's JSON; the last is the text after `data: ` where that is no JSON."""

    async def source() -> AsyncIterator[Reply]:
        for reply in replies:
            if isinstance(reply, DeadlineExceeded):
                raise reply
            yield reply

    async def collect() -> list[str]:
        return [event async for event in chunks(source(), "m", **options)]

    lines = asyncio.run(collect())
    assert all(line.startswith("data: ") and line.endswith("\n\n") for line in lines)
    bare = [line.removeprefix("data: ").strip() for line in lines]
    return [line if line == "[DONE]" else json.loads(line) for line in bare]


def said(text: str, choice: int = 0, logprobs: list[Any] | None = None) -> Reply:
    return piece(choice, text, None, logprobs)


def ended(choice: int = 0, reason: str = "stop") -> Reply:
    return piece(choice, "", reason, None)


def piece(choice: int, text: str, reason: str | None, logprobs: list[Any] | None) -> Reply:
    found = {"choice": choice, "text": text, "finish_reason": reason, "logprobs": logprobs}
    return Reply("delta", found | {"system_fingerprint": "fp_1"})


CITED = [{"file_id": "file-1"}]
DONE = Reply("done", {"system_fingerprint": "fp_1", "citations": CITED, "usage": {"total_tokens": 3}})


def test_streams_role_text_reason_and_usage_under_one_id() -> None:
    *found, done = events(said("Grü"), said("ße"), ended(), DONE, include_usage=True)
    assert done == "[DONE]"
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [event["choices"][0]["delta"]["content"] for event in found[1:3]] == ["Grü", "ße"]
    assert found[3]["choices"][0]["finish_reason"] == "stop"
    assert (found[4]["choices"], found[4]["usage"]) == ([], {"total_tokens": 3})
    assert {event["usage"] for event in found[:4] if "usage" in event} == {None}
    assert all("usage" in event for event in found)
    assert len({event["id"] for event in found}) == 1
    assert {event["system_fingerprint"] for event in found} == {"fp_1"}


def test_keeps_the_choices_apart_and_ends_each() -> None:
    *found, _ = events(said("a", 0), said("b", 1), ended(1, "length"), said("c", 0), ended(0), DONE, choices=2)
    assert [event["choices"][0]["index"] for event in found] == [0, 1, 0, 1, 1, 0, 0]
    assert [event["choices"][0]["delta"].get("role") for event in found[:2]] == ["assistant"] * 2
    reasons = [(e["choices"][0]["index"], e["choices"][0]["finish_reason"]) for e in found]
    assert [one for one in reasons if one[1]] == [(1, "length"), (0, "stop")]


def test_cites_on_the_last_finish_chunk() -> None:
    *found, _ = events(said("a"), ended(), DONE)
    assert found[-1]["citations"] == CITED
    assert found[-1]["choices"][0]["finish_reason"] == "stop"
    assert all("citations" not in event for event in found[:-1])


def test_sends_no_usage_unasked() -> None:
    *found, _ = events(said("a"), ended(), DONE)
    assert all("usage" not in event for event in found)


def test_streams_log_probabilities_with_their_text() -> None:
    one = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    *found, _ = events(said("a", logprobs=[one]), ended(), DONE)
    assert found[1]["choices"][0]["logprobs"] == {"content": [one], "refusal": None}
    assert found[2]["choices"][0]["logprobs"] is None


def test_ends_a_stream_that_fails_with_the_error_and_nothing_more() -> None:
    found = events(said("a"), DeadlineExceeded("late"))
    assert found[-1]["error"] == {
        "message": "late",
        "type": "server_error",
        "param": None,
        "code": "deadline_exceeded",
    }
    assert "[DONE]" not in found


WHOLE = [{"text": "ab", "logprobs": None, "finish_reason": "stop"}]


def test_keeps_the_whole_answer_before_it_says_that_it_is_over() -> None:
    kept: list[Any] = []

    async def keep(answer: dict[str, Any]) -> None:
        kept.append(answer)

    done = Reply("done", DONE.data | {"model": "m", "choices": WHOLE})
    *found, end = events(said("a"), said("b"), ended(), done, keep=keep)
    assert end == "[DONE]"
    [answer] = kept
    assert (answer["id"], answer["created"]) == (found[0]["id"], found[0]["created"])
    assert answer["choices"][0]["message"]["content"] == "ab"
    assert (answer["object"], answer["usage"], answer["citations"]) == ("chat.completion", {"total_tokens": 3}, CITED)


def test_ends_with_the_error_where_the_answer_could_not_be_kept() -> None:
    async def keep(_answer: dict[str, Any]) -> None:
        raise QuotaExceeded("full", param="store")

    found = events(said("a"), ended(), Reply("done", DONE.data | {"model": "m", "choices": WHOLE}), keep=keep)
    assert (found[-1]["error"]["code"], found[-1]["error"]["param"]) == ("insufficient_quota", "store")
    assert [event["choices"][0]["finish_reason"] for event in found[:-1]] == [None, None]  # nothing says that it ended


def test_answers_every_field_that_openai_does() -> None:
    choice = {"text": "a", "logprobs": None, "finish_reason": "stop"}
    answer = {"model": "m", "system_fingerprint": "fp_1", "choices": [choice, choice], "usage": {}, "citations": []}
    found = completion(answer)
    assert {"id", "object", "created", "model", "system_fingerprint", "service_tier", "choices", "usage"} < set(found)
    assert [one["index"] for one in found["choices"]] == [0, 1]
    assert found["choices"][0]["message"] == {"role": "assistant", "content": "a", "refusal": None}
