"""What comes in over HTTP, in OpenAI's shapes; unknown fields are refused, never ignored."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StaticChunking(_Strict):
    """Sizes in tokens of the embedder."""

    max_chunk_size_tokens: Annotated[int, Field(ge=20, le=4096)]
    chunk_overlap_tokens: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _overlap_below_half(self) -> "StaticChunking":
        if self.chunk_overlap_tokens > self.max_chunk_size_tokens // 2:
            raise ValueError("chunk_overlap_tokens must not exceed half of max_chunk_size_tokens")
        return self


class ChunkingStrategy(_Strict):
    type: Literal["auto", "static"]
    static: StaticChunking | None = None

    @model_validator(mode="after")
    def _static_says_how(self) -> "ChunkingStrategy":
        if self.type == "static" and self.static is None:
            raise ValueError("a static strategy needs `static`")
        return self

    def sizes(self) -> dict[str, int] | None:
        """None for the service's default."""
        if self.static is None:
            return None
        return {"most": self.static.max_chunk_size_tokens, "overlap": self.static.chunk_overlap_tokens}


class CreateStore(_Strict):
    name: Annotated[str, Field(max_length=256)] = ""
    description: str | None = None
    file_ids: Annotated[list[str], Field(max_length=10_000)] = []
    chunking_strategy: ChunkingStrategy | None = None
    metadata: dict[str, Any] | None = None


class UpdateStore(_Strict):
    name: Annotated[str, Field(max_length=256)] | None = None
    metadata: dict[str, Any] | None = None


class AttachFile(_Strict):
    file_id: str
    attributes: dict[str, str | float | bool] | None = None


class RankingOptions(_Strict):
    ranker: Literal["none", "auto", "default-2024-11-15"] = "auto"
    score_threshold: float = 0.0


class Search(_Strict):
    query: str | list[str]
    max_num_results: Annotated[int, Field(ge=1, le=50)] = 10
    filters: dict[str, Any] | None = None
    ranking_options: RankingOptions | None = None
    rewrite_query: bool = False
    mode: Literal["hybrid", "dense", "text"] = "hybrid"
    """Ours: which legs to search."""


class CreateEmbedding(_Strict):
    input: str | list[str] | list[int] | list[list[int]]
    model: str
    dimensions: Annotated[int, Field(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None
