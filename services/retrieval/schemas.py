"""What comes in: over HTTP in OpenAI's shapes, where unknown fields are refused, and in live requests."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from services.retrieval.domain import ToAttach
from services.retrieval.filters import Filter, Scalar, shallow
from shared.body import Body

MOST_RESULTS = 50
MOST_INPUTS = 2048
MOST_QUERIES = 32
MOST_FILES = 10_000
MOST_BATCH = 2000
_LONGEST_VALUE = 512
Mode = Literal["hybrid", "dense", "text"]


def _storable(value: Scalar) -> Scalar:
    """What jsonb takes and a filter can compare."""
    if isinstance(value, str):
        if len(value) > _LONGEST_VALUE:
            raise ValueError(f"text of at most {_LONGEST_VALUE} characters, not {len(value)}")
    elif not -(2**63) < value < 2**63:
        raise ValueError("numbers are finite and below 2^63")
    return value


Name = Annotated[str, StringConstraints(max_length=256)]
Key = Annotated[str, StringConstraints(max_length=64)]
FileId = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Metadata = Annotated[dict[Key, Annotated[str, StringConstraints(max_length=_LONGEST_VALUE)]], Field(max_length=16)]
Attributes = Annotated[
    dict[Key, Annotated[str | bool | int | float, AfterValidator(_storable)]],
    Field(
        max_length=16,
        description="What searches filter by: up to 16 keys (64 characters), values text (512), numbers or booleans.",
    ),
]


class StaticChunking(Body):
    """Sizes in tokens of the embedder."""

    max_chunk_size_tokens: Annotated[
        int,
        Field(ge=20, le=4096, description="A passage is never longer. More than the embedder reads is refused."),
    ]
    chunk_overlap_tokens: Annotated[
        int, Field(ge=0, description="Tokens of whole sentences that a passage repeats from the one before it.")
    ] = 0

    @model_validator(mode="after")
    def _overlap_below_half(self) -> "StaticChunking":
        if self.chunk_overlap_tokens > self.max_chunk_size_tokens // 2:
            raise ValueError("chunk_overlap_tokens must not exceed half of max_chunk_size_tokens")
        return self


class ChunkingStrategy(Body):
    """`auto` takes the service's sizes (of a file: its store's), as far as the embedder reads; `static` has its own."""

    type: Literal["auto", "static"]
    static: StaticChunking | None = None

    @model_validator(mode="after")
    def _static_says_how(self) -> "ChunkingStrategy":
        if (self.type == "static") != (self.static is not None):
            raise ValueError("a static strategy needs `static`, an auto one has none")
        return self

    def sizes(self) -> dict[str, int] | None:
        """None for the service's default."""
        if self.static is None:
            return None
        return {"most": self.static.max_chunk_size_tokens, "overlap": self.static.chunk_overlap_tokens}


class AskedExpiry(Body):
    """A store that nobody searched or added to for so many days gives its passages back."""

    anchor: Literal["last_active_at"]
    days: Annotated[int, Field(ge=1, le=365)]


class CreateStore(Body):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "handbook", "expires_after": {"anchor": "last_active_at", "days": 7}}]}
    )

    name: Name | None = None
    description: Annotated[str, StringConstraints(max_length=512)] | None = None
    file_ids: Annotated[list[FileId], Field(max_length=MOST_FILES)] = Field([])
    chunking_strategy: ChunkingStrategy | None = None
    expires_after: AskedExpiry | None = None
    metadata: Metadata | None = None


class UpdateStore(Body):
    """What is left out stays; null clears."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "handbook 2026", "expires_after": None}]})

    name: Name | None = None
    expires_after: AskedExpiry | None = None
    metadata: Metadata | None = None

    def changes(self) -> dict[str, Any]:
        """Columns to set."""
        wanted = {
            "name": self.name or "",
            "metadata_": dict(self.metadata or {}),
            "expires_days": self.expires_after.days if self.expires_after else None,
        }
        fields = {"name": "name", "metadata_": "metadata", "expires_days": "expires_after"}
        return {column: value for column, value in wanted.items() if fields[column] in self.model_fields_set}


class AttachFile(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"file_id": "file-abc", "attributes": {"year": 2026}}]})

    file_id: FileId
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None

    def ordered(self, where: str = "") -> ToAttach:
        """The file with what is said of it; `where` is what its fields' names begin with."""
        sizes = self.chunking_strategy.sizes() if self.chunking_strategy else None
        return ToAttach(self.file_id, dict(self.attributes or {}), sizes, "file_id", where)


class UpdateFile(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"attributes": {"year": 2027}}]})

    attributes: Attributes | None


class CreateFileBatch(Body):
    """Either `file_ids`, with one set of attributes and one strategy for all, or `files` that bring their own."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"files": [{"file_id": "file-abc", "attributes": {"year": 2026}}]}]}
    )

    file_ids: Annotated[list[FileId], Field(min_length=1, max_length=MOST_BATCH)] | None = None
    files: Annotated[list[AttachFile], Field(min_length=1, max_length=MOST_BATCH)] | None = None
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> "CreateFileBatch":
        if (self.file_ids is None) == (self.files is None):
            raise ValueError("give either file_ids or files, one of the two")
        if self.files is not None and (self.attributes is not None or self.chunking_strategy is not None):
            raise ValueError("with files, attributes and chunking_strategy belong to each of them")
        return self

    @field_validator("files")
    @classmethod
    def _each_once(cls, files: list[AttachFile] | None) -> list[AttachFile] | None:
        seen: set[str] = set()
        for file in files or ():
            if file.file_id in seen:
                raise ValueError(f"{file.file_id} is named twice")
            seen.add(file.file_id)
        return files

    def ordered(self) -> list[ToAttach]:
        """The files with what is said of each, each once."""
        if self.files is not None:
            return [file.ordered(f"files.{number}.") for number, file in enumerate(self.files)]
        attributes = dict(self.attributes or {})
        sizes = self.chunking_strategy.sizes() if self.chunking_strategy else None
        return [ToAttach(file_id, attributes, sizes) for file_id in dict.fromkeys(self.file_ids or ())]


class RankingOptions(Body):
    ranker: Annotated[
        Literal["none", "auto", "default-2024-11-15"],
        Field(description="One ranking serves all three: words and meaning, blended by score (see `mode`)."),
    ] = "auto"
    score_threshold: (
        Annotated[float, Field(ge=0, le=1, description="Passages that score less are left out.")] | None
    ) = None


Query = Annotated[str, StringConstraints(min_length=1, max_length=100_000)]
SearchFilter = Annotated[Filter, AfterValidator(shallow)]


class Search(Body):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "query": "How often does autovacuum run?",
                    "max_num_results": 5,
                    "filters": {"type": "gte", "key": "year", "value": 2024},
                }
            ]
        }
    )

    query: Annotated[
        Query | Annotated[list[Query], Field(min_length=1, max_length=MOST_QUERIES)],
        Field(description="One query or several; of several, a passage keeps its best score."),
    ]
    max_num_results: Annotated[int, Field(ge=1, le=MOST_RESULTS)] = 10
    filters: SearchFilter | None = None
    ranking_options: RankingOptions | None = None
    rewrite_query: Annotated[
        bool, Field(description="Only false: queries are searched as they are, and true is refused.")
    ] = False
    mode: Annotated[Mode, Field(description="Ours: which legs to search.")] = "hybrid"

    @field_validator("rewrite_query")
    @classmethod
    def _as_it_is(cls, wish: bool) -> bool:
        if wish:
            raise ValueError("queries are searched as they are; rewrite yours before the search, or leave this out")
        return wish


class CreateEmbedding(Body):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "all-minilm-l6-v2", "input": ["one text", "another"]}]}
    )

    input: Annotated[
        str | list[str] | list[int] | list[list[int]],
        Field(description="Text, or up to 2048 texts. Tokens are refused: they belong to another model's vocabulary."),
    ]
    model: Name
    dimensions: Annotated[int, Field(ge=1, description="Keep the first so many, scaled to length 1 again.")] | None = (
        None
    )
    encoding_format: Annotated[Literal["float", "base64"], Field(description="base64 is little-endian float32.")] = (
        "float"
    )
    user: str | None = None


class SearchBody(BaseModel):
    """The body of a live "retrieval.search"."""

    vector_store_id: str
    query: str | Annotated[list[str], Field(max_length=MOST_INPUTS)]
    k: Annotated[int, Field(ge=1, le=MOST_RESULTS)] = 10
    filters: SearchFilter | None = None
    mode: Mode = "hybrid"


class EmbedBody(BaseModel):
    """The body of a live "retrieval.embed"."""

    model: str
    input: Annotated[list[str], Field(max_length=MOST_INPUTS)]
