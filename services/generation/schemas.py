"""Prompts, variants and releases as they come in over HTTP."""

from typing import Annotated, Any

from pydantic import Field

from shared.body import Body
from shared.messages import VariantRetrieval, VariantSampling
from shared.prompt_format import PromptSpec


class CreatePrompt(Body):
    name: Annotated[str, Field(min_length=1, max_length=200)]
    spec: PromptSpec


class CreateVariant(Body):
    name: Annotated[str, Field(min_length=1, max_length=200)]
    base_model: str
    adapter: str | None = None
    prompt: PromptSpec | None = None
    retrieval: VariantRetrieval | None = None
    sampling: VariantSampling = VariantSampling(temperature=0.0, max_tokens=256)


class CreateRelease(Body):
    model_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    variant: str
    evidence: dict[str, Any] = Field({})
