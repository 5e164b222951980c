"""What the retrieval service answers, for the API's description."""

from typing import Literal

from pydantic import ConfigDict

from shared.answers import Answer


class FileCounts(Answer):
    """Files by status."""

    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


class StoreExpiry(Answer):
    """Given back when nobody used it for so many days."""

    anchor: Literal["last_active_at"]
    days: int


class VectorStoreObject(Answer):
    """OpenAI's VectorStore, with the embedder that it was made with."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "vs_abc",
                    "object": "vector_store",
                    "created_at": 1767225600,
                    "name": "handbook",
                    "description": None,
                    "status": "completed",
                    "usage_bytes": 81920,
                    "file_counts": {"in_progress": 0, "completed": 2, "failed": 0, "cancelled": 0, "total": 2},
                    "last_active_at": 1767225900,
                    "expires_after": {"anchor": "last_active_at", "days": 7},
                    "expires_at": 1767830700,
                    "metadata": {"team": "support"},
                    "embedder": "all-minilm-l6-v2",
                }
            ]
        }
    )

    id: str
    object: Literal["vector_store"]
    created_at: int
    """Unix seconds."""
    name: str
    description: str | None
    status: Literal["in_progress", "completed", "expired"]
    """`in_progress` while a file waits to be indexed."""
    usage_bytes: int
    file_counts: FileCounts
    last_active_at: int
    """Unix seconds; at most a minute old."""
    expires_after: StoreExpiry | None
    expires_at: int | None
    """Unix seconds; null: kept until it is deleted."""
    metadata: dict[str, str]
    embedder: str
    """The model id of what makes its vectors."""


class DeletedVectorStore(Answer):
    """A vector store that is gone."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": "vs_abc", "object": "vector_store.deleted", "deleted": True}]}
    )

    id: str
    object: Literal["vector_store.deleted"]
    deleted: Literal[True]


class FileError(Answer):
    """Why a file could not be indexed."""

    code: Literal["server_error", "unsupported_file", "invalid_file"]
    message: str


class ShownSizes(Answer):
    """Tokens of the embedder."""

    max_chunk_size_tokens: int
    chunk_overlap_tokens: int


class StaticStrategy(Answer):
    """The sizes that a file is cut by."""

    type: Literal["static"]
    static: ShownSizes


class VectorStoreFileObject(Answer):
    """OpenAI's VectorStoreFile, with the file's name."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "file-abc",
                    "object": "vector_store.file",
                    "created_at": 1767225600,
                    "vector_store_id": "vs_abc",
                    "filename": "autovacuum.md",
                    "status": "completed",
                    "usage_bytes": 40960,
                    "last_error": None,
                    "attributes": {"year": 2026},
                    "chunking_strategy": {
                        "type": "static",
                        "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 0},
                    },
                }
            ]
        }
    )

    id: str
    """The id of the uploaded file."""
    object: Literal["vector_store.file"]
    created_at: int
    """Unix seconds."""
    vector_store_id: str
    filename: str
    status: Literal["in_progress", "completed", "failed", "cancelled"]
    usage_bytes: int
    last_error: FileError | None
    attributes: dict[str, str | float | bool]
    chunking_strategy: StaticStrategy
    """`auto` is answered by the sizes that it chose."""


class DetachedFile(Answer):
    """A file that is no longer in its store."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": "file-abc", "object": "vector_store.file.deleted", "deleted": True}]}
    )

    id: str
    object: Literal["vector_store.file.deleted"]
    deleted: Literal[True]


class FileBatchObject(Answer):
    """OpenAI's VectorStoreFileBatch."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "vsfb_abc",
                    "object": "vector_store.files_batch",
                    "created_at": 1767225600,
                    "vector_store_id": "vs_abc",
                    "status": "in_progress",
                    "file_counts": {"in_progress": 1, "completed": 1, "failed": 0, "cancelled": 0, "total": 2},
                }
            ]
        }
    )

    id: str
    object: Literal["vector_store.files_batch"]
    created_at: int
    """Unix seconds."""
    vector_store_id: str
    status: Literal["in_progress", "completed", "failed", "cancelled"]
    file_counts: FileCounts


class TextContent(Answer):
    """A piece of text."""

    type: Literal["text"]
    text: str


class FilePassages(Answer):
    """A file's passages in reading order, all on one page."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "vector_store.file_content.page",
                    "data": [{"type": "text", "text": "Autovacuum wakes up once a minute."}],
                    "has_more": False,
                    "next_page": None,
                }
            ]
        }
    )

    object: Literal["vector_store.file_content.page"]
    data: list[TextContent]
    has_more: Literal[False]
    next_page: None


class SearchResult(Answer):
    """OpenAI's search result, with the passage's id and its headings."""

    file_id: str
    filename: str
    score: float
    """From 0 (of vectors alone, -1) to 1."""
    attributes: dict[str, str | float | bool]
    content: list[TextContent]
    """The passage."""
    passage_id: str
    title: str
    """The headings that the passage stands under."""


class SearchResults(Answer):
    """The best passages, best first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "vector_store.search_results.page",
                    "search_query": ["How often does autovacuum run?"],
                    "data": [
                        {
                            "file_id": "file-abc",
                            "filename": "autovacuum.md",
                            "score": 0.87,
                            "attributes": {"year": 2026},
                            "content": [{"type": "text", "text": "Autovacuum wakes up once a minute."}],
                            "passage_id": "psg_abc",
                            "title": "Maintenance › Autovacuum",
                        }
                    ],
                    "has_more": False,
                    "next_page": None,
                }
            ]
        }
    )

    object: Literal["vector_store.search_results.page"]
    search_query: list[str]
    data: list[SearchResult]
    has_more: Literal[False]
    next_page: None


class Embedding(Answer):
    """The vector of one text."""

    object: Literal["embedding"]
    index: int
    """The text's place in the request, from 0."""
    embedding: list[float] | str
    """Numbers, or as base64 little-endian float32, whichever was asked for."""


class EmbeddingUsage(Answer):
    """The tokens of all texts together."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Answer):
    """A unit vector for every text, in their order."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "list",
                    "model": "all-minilm-l6-v2",
                    "data": [{"object": "embedding", "index": 0, "embedding": [0.6, -0.8]}],
                    "usage": {"prompt_tokens": 4, "total_tokens": 4},
                }
            ]
        }
    )

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage
