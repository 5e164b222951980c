"""Rows in OpenAI's shapes."""

from pathlib import Path
from typing import Any

from services.retrieval.domain import sizes_used
from services.retrieval.embedder_reach import reach
from services.retrieval.tables import FileBatch, VectorStore, VectorStoreFile
from shared.clock import now, unix


def store_object(store: VectorStore, counts: dict[str, int]) -> dict[str, Any]:
    in_time = "in_progress" if counts["in_progress"] else "completed"
    days = store.expires_days
    return {
        "id": store.id,
        "object": "vector_store",
        "created_at": unix(store.created_at),
        "name": store.name,
        "description": store.description,
        "status": "expired" if store.is_expired(now()) else in_time,
        "usage_bytes": counts["usage_bytes"],
        "file_counts": {name: count for name, count in counts.items() if name != "usage_bytes"},
        "last_active_at": unix(store.last_active_at),
        "expires_after": None if days is None else {"anchor": "last_active_at", "days": days},
        "expires_at": unix(store.expires_at),
        "metadata": store.metadata_,
        "embedder": store.embedder,
    }


def file_object(store: VectorStore, file: VectorStoreFile, models_dir: Path) -> dict[str, Any]:
    """`auto` is answered by what it chose, and older orders for more than the embedder reads by what it reads."""
    used = sizes_used(file.chunking or store.chunking, reach(models_dir, store.embedder))
    sizes = {"max_chunk_size_tokens": used["most"], "chunk_overlap_tokens": used["overlap"]}
    return {
        "id": file.file_id,
        "object": "vector_store.file",
        "created_at": unix(file.created_at),
        "vector_store_id": file.vector_store_id,
        "filename": file.filename,
        "status": file.status,
        "usage_bytes": file.usage_bytes,
        "last_error": file.last_error,
        "attributes": file.attributes,
        "chunking_strategy": {"type": "static", "static": sizes},
    }


def batch_object(batch: FileBatch, counts: dict[str, int]) -> dict[str, Any]:
    return {
        "id": batch.id,
        "object": "vector_store.files_batch",
        "created_at": unix(batch.created_at),
        "vector_store_id": batch.vector_store_id,
        "status": batch.status,
        "file_counts": counts,
    }


def result_object(result: dict[str, Any]) -> dict[str, Any]:
    return {
        "file_id": result["file_id"],
        "filename": result["document"],
        "score": result["score"],
        "attributes": result["attributes"],
        "content": [{"type": "text", "text": result["text"]}],
        "passage_id": result["id"],
        "title": result["title"],
    }
