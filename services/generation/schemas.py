"""Prompts, variants and releases as they come in over HTTP."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from shared.body import Body
from shared.messages import VariantRetrieval, VariantSampling
from shared.prompt_format import PromptSpec


class CreatePrompt(Body):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "household", "spec": {"instruction": "Answer in one sentence.", "with_passages": True}}
            ]
        },
    )

    name: Annotated[str, Field(min_length=1, max_length=200)]
    spec: PromptSpec


class CreateVariant(Body):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "household",
                    "base_model": "smollm2-135m-instruct",
                    "adapter": "ad_abc",
                    "prompt": {"instruction": "Answer in one sentence.", "with_passages": True},
                    "retrieval": {"vector_store_id": "vs_abc", "k": 3, "max_passage_tokens": 256},
                    "sampling": {"temperature": 0, "max_tokens": 256},
                }
            ]
        },
    )

    name: Annotated[str, Field(min_length=1, max_length=200)]
    base_model: str
    adapter: str | None = None
    prompt: PromptSpec | None = None
    retrieval: VariantRetrieval | None = None
    sampling: VariantSampling = VariantSampling(temperature=0.0, max_tokens=256)


class CreateRelease(Body):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model_id": "household", "variant": "var_abc", "evidence": {"experiment": "exp_abc"}}]
        },
    )

    model_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    variant: str
    evidence: dict[str, Any] = Field({})
