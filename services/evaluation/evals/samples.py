"""The record of a request to a model and its answer, in OpenAI's shape; what is not known is null."""

from collections.abc import Iterable, Mapping
from typing import Any

from services.evaluation.asking import Said
from services.evaluation.evals.domain import Answered, Entry, Usage, error_record
from shared.errors import UpliftError

_SAMPLING = {"seed": "seed", "temperature": "temperature", "top_p": "top_p", "max_completion_tokens": "max_tokens"}
"""OpenAI's name → the live request's."""


def answer(row: int, body: Mapping[str, Any], said: Said) -> Answered:
    """A row with its model's answer, or with the error that the request ended in."""
    if isinstance(said, UpliftError):
        failed = _sample(body["messages"], body["model"], None, error=error_record(said), **_sampling(body))
        return Answered(row, failed)
    return Answered(row, asked_and_said(body, said), usage_of(said))


def given(row: int, entry: Entry) -> Answered:
    """A row that brought its answer, or has none; nobody was asked."""
    found = entry.sample or {}
    text, model = found.get("output_text"), found.get("model")
    return Answered(
        row, _sample([], model if isinstance(model, str) else None, text if isinstance(text, str) else None)
    )


def unasked(row: int, model: str, error: UpliftError) -> Answered:
    """A row about which the model could not be asked."""
    return Answered(row, _sample([], model, None, error=error_record(error)))


def asked_and_said(body: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """One request and its answer; citations stand beside an answer that retrieval backs."""
    used = usage_of(said)
    sample = _sample(
        body["messages"],
        said["model"],
        said["text"],
        finish_reason=said["finish_reason"],
        usage=usage_object(used.prompt_tokens, used.completion_tokens),
        **_sampling(body),
    )
    return sample | {"citations": said["citations"]} if said.get("citations") else sample


def usage_of(said: Mapping[str, Any]) -> Usage:
    """The tokens of one chat answer."""
    return Usage(said["model"], said["usage"]["prompt_tokens"], said["usage"]["completion_tokens"])


def usage_object(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """OpenAI's token counts; we keep no cache between requests."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "cached_tokens": 0,
    }


def _sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: body[ours] for name, ours in _SAMPLING.items()}


def _sample(messages: Iterable[Mapping[str, str]], model: str | None, text: str | None, **known: Any) -> dict[str, Any]:
    names = ("finish_reason", "usage", "error", *_SAMPLING)
    # a model can say NUL, which Postgres cannot keep
    output = [] if text is None else [{"role": "assistant", "content": text.replace("\x00", "\ufffd")}]
    return {"input": list(messages), "output": output, "model": model} | {name: known.get(name) for name in names}
