"""OpenAI's chat shapes from live replies: one completion, or a stream of chunks."""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from shared.errors import UpliftError
from shared.ids import new_id
from shared.live import Reply
from shared.web import error_body


def completion(answer: dict[str, Any]) -> dict[str, Any]:
    """A chat.completion object; `citations` is ours, beside OpenAI's fields."""
    return {
        "id": new_id("chatcmpl-"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": answer["model"],
        "system_fingerprint": answer["system_fingerprint"],
        "service_tier": None,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": choice["text"], "refusal": None},
                "finish_reason": choice["finish_reason"],
                "logprobs": _logprobs(choice["logprobs"]),
            }
            for index, choice in enumerate(answer["choices"])
        ],
        "usage": answer["usage"],
        "citations": answer["citations"],
    }


async def chunks(
    replies: AsyncIterator[Reply],
    model: str,
    *,
    choices: int = 1,
    include_usage: bool = False,
    keep: Callable[[dict[str, Any]], Awaitable[None]] | None = None,
) -> AsyncIterator[str]:
    """Server-sent events: each choice's role, its text as it comes, its finish reason; usage if asked; [DONE].

    The last finish chunk carries the `citations`. An error after the first byte can no longer be a status; it is sent
    as an event, which the client raises, and ends the stream. `keep` is given the whole completion and done with it
    before that chunk is sent, so what it raises is such an error.
    """
    head = {"id": new_id("chatcmpl-"), "object": "chat.completion.chunk", "created": int(time.time()), "model": model}
    head |= {"service_tier": None, "system_fingerprint": None} | ({"usage": None} if include_usage else {})

    def event(choice: int, delta: dict[str, Any], *, logprobs: Any = None, reason: str | None = None) -> dict[str, Any]:
        one = {"index": choice, "delta": delta, "finish_reason": reason, "logprobs": _logprobs(logprobs)}
        return head | {"choices": [one]}

    begun = False
    last: dict[str, Any] = {}  # held back until the whole answer, with its citations, is there
    try:
        async for reply in replies:
            if not begun:
                begun = True
                head["system_fingerprint"] = reply.data["system_fingerprint"]
                for choice in range(choices):
                    yield _sse(event(choice, {"role": "assistant", "content": "", "refusal": None}))
            if reply.kind == "delta":
                piece = reply.data
                if last:
                    yield _sse(last)
                    last = {}
                if piece["finish_reason"] is None:
                    yield _sse(event(piece["choice"], {"content": piece["text"]}, logprobs=piece["logprobs"]))
                else:
                    last = event(piece["choice"], {}, reason=piece["finish_reason"])
            else:
                if keep is not None:
                    await keep(completion(reply.data) | {"id": head["id"], "created": head["created"]})
                yield _sse(last | {"citations": reply.data["citations"]})
                if include_usage:
                    yield _sse(head | {"choices": [], "usage": reply.data["usage"]})
                yield "data: [DONE]\n\n"
    except UpliftError as error:
        yield _sse(error_body(error))


def _logprobs(found: list[dict[str, Any]] | None) -> dict[str, Any] | None:
    return None if found is None else {"content": found, "refusal": None}


def _sse(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
