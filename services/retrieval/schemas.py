"""What comes in: over HTTP in OpenAI's shapes, where unknown fields are refused, and in live requests."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.errors import InvalidInput

MOST_RESULTS = 50
MOST_INPUTS = 2048
Mode = Literal["hybrid", "dense", "text"]
Attributes = Annotated[dict[str, str | bool | int | float], Field(max_length=16)]


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
    attributes: Attributes | None = None


class UpdateFile(_Strict):
    attributes: Attributes | None = None


class RankingOptions(_Strict):
    ranker: Literal["none", "auto", "default-2024-11-15"] = "auto"
    score_threshold: float = 0.0


class Search(_Strict):
    query: str | Annotated[list[str], Field(min_length=1, max_length=MOST_INPUTS)]
    max_num_results: Annotated[int, Field(ge=1, le=MOST_RESULTS)] = 10
    filters: dict[str, Any] | None = None
    ranking_options: RankingOptions | None = None
    rewrite_query: bool = False
    mode: Mode = "hybrid"
    """Ours: which legs to search."""


class CreateEmbedding(_Strict):
    input: str | list[str] | list[int] | list[list[int]]
    model: str
    dimensions: Annotated[int, Field(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None


class SearchBody(BaseModel):
    """The body of a live "retrieval.search"."""

    vector_store_id: str
    query: str | Annotated[list[str], Field(max_length=MOST_INPUTS)]
    k: Annotated[int, Field(ge=1, le=MOST_RESULTS)] = 10
    filters: dict[str, Any] | None = None
    mode: Mode = "hybrid"


class EmbedBody(BaseModel):
    """The body of a live "retrieval.embed"."""

    model: str
    input: Annotated[list[str], Field(max_length=MOST_INPUTS)]


Body = TypeVar("Body", bound=BaseModel)


def read_body(shape: type[Body], body: dict[str, Any]) -> Body:
    """A live request's body, typed; raises InvalidInput that names the field."""
    try:
        return shape.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{where}: {first['msg']}", param=where) from error
