"""OpenAI's chat shapes from live replies: one completion, or a stream of chunks."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

from shared.errors import UpliftError
from shared.ids import new_id
from shared.live import Reply
from shared.web import error_body


def completion(answer: dict[str, Any]) -> dict[str, Any]:
    """A chat.completion object; `citations` is ours, beside OpenAI's fields."""
    message = {"role": "assistant", "content": answer["text"], "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": answer["finish_reason"], "logprobs": None}
    return {
        "id": new_id("chatcmpl-"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": answer["model"],
        "choices": [choice],
        "usage": answer["usage"],
        "citations": answer["citations"],
    }


async def chunks(replies: AsyncIterator[Reply], model: str, *, include_usage: bool) -> AsyncIterator[str]:
    """Server-sent events: role, text as it comes, the finish reason, usage if asked, [DONE].

    An error after the first byte can no longer be a status; it is sent as an event, which the client raises.
    """
    head = {"id": new_id("chatcmpl-"), "object": "chat.completion.chunk", "created": int(time.time()), "model": model}

    def event(delta: dict[str, Any], reason: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return _sse(head | {"choices": [choice]} | more)

    yield event({"role": "assistant", "content": ""})
    try:
        async for reply in replies:
            if reply.kind == "delta":
                yield event({"content": reply.data["text"]})
            else:
                yield event({}, reply.data["finish_reason"], citations=reply.data["citations"])
                if include_usage:
                    yield _sse(head | {"choices": [], "usage": reply.data["usage"]})
    except UpliftError as error:
        yield _sse(error_body(error))
    yield "data: [DONE]\n\n"


def _sse(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
