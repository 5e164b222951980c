"""Prompts, variants and releases as values: digests that make equal content one row, and a release's history."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from shared.prompt_format import PromptSpec


@dataclass(frozen=True)
class Adapter:
    """A trained adapter as generation needs it."""

    id: str
    model_id: str
    blob_key: str


@dataclass(frozen=True)
class Retrieval:
    """Which passages a variant is given; `max_passage_tokens` is for all of them together."""

    vector_store_id: str
    k: int
    max_passage_tokens: int


@dataclass(frozen=True)
class Answerer:
    """All that decides an answer, resolved from a model id."""

    model: str
    base_model: str
    adapter: Adapter | None
    prompt: PromptSpec
    retrieval: Retrieval | None
    sampling: Mapping[str, Any]


def fingerprint(answerer: Answerer) -> str:
    """OpenAI's `system_fingerprint`: the same as long as the same model, adapter and prompt answer.

    Two answers to the same request and seed can be compared only under one fingerprint.
    """
    facts = {
        "base_model": answerer.base_model,
        "adapter": answerer.adapter.blob_key if answerer.adapter else None,
        "prompt": answerer.prompt.model_dump(mode="json"),
        "retrieval": asdict(answerer.retrieval) if answerer.retrieval else None,
    }
    return f"fp_{digest(facts)[:10]}"


def digest(content: Mapping[str, Any]) -> str:
    """The sha256 (hex) of the content's canonical JSON: equal content, equal digest."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def pointed(history: list[Any], variant_id: str, evidence: Mapping[str, Any], at: str) -> list[Any]:
    """A release's history with one more entry, the newest last."""
    return [*history, {"variant_id": variant_id, "evidence": dict(evidence), "at": at}]


def rolled_back(history: list[Any]) -> tuple[list[Any], str] | None:
    """The history without its newest entry, and the variant it points to then; None if there is only one."""
    if len(history) < 2:
        return None
    return history[:-1], str(history[-2]["variant_id"])
