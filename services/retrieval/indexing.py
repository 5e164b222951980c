"""The job that turns a store's files into passages: some files a transaction, each file whole or not at all."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.retrieval import repository
from services.retrieval.document_rows import Indexed, free_documents, refresh_statistics, replace_documents
from services.retrieval.domain import sizes_used
from services.retrieval.embedder import Embedder, Vectors
from services.retrieval.extract import to_text
from services.retrieval.passages import Chunk, cut, document_title
from services.retrieval.repository import SourceFile
from services.retrieval.settings import RetrievalSettings
from services.retrieval.store_life import after_change
from services.retrieval.tables import VectorStore
from services.retrieval.wiring import RetrievalWiring
from shared.document_text import InvalidFile, UnsupportedFile
from shared.errors import NotFound, UpliftError
from shared.jobs import JobContext
from shared.messages import IndexVectorStore

_TEXTS_BETWEEN_CHECKS = 256
_FILE_ERRORS: dict[type[UpliftError], str] = {InvalidFile: "invalid_file", UnsupportedFile: "unsupported_file"}
"""OpenAI's codes of a file's `last_error`; what is not the file's fault is a "server_error"."""


@dataclass(frozen=True)
class Todo:
    """A file to index, and how its owner wants it cut: {most, overlap} in tokens."""

    file: SourceFile
    chunking: dict[str, Any]


def index_vector_store(context: JobContext, order: IndexVectorStore) -> None:
    """Index what still waits for this job; resumed, it goes on where it stopped."""
    with context.transaction() as session:
        store = repository.get_store(session, order.vector_store_id)
        waiting = repository.waiting_files(session, store.id, context.job.id)
        found = repository.existing_files(session, list(waiting))
        for file_id in waiting:
            if file_id not in found:
                message = "The file was deleted or expired before it could be indexed."
                repository.fail_file(session, store.id, file_id, code="invalid_file", message=message)
        total = repository.files_of_job(session, store.id, context.job.id)
    todo = [Todo(found[file_id], own or store.chunking) for file_id, own in waiting.items() if file_id in found]
    done = total - len(todo)
    for batch in _batches(todo, RetrievalSettings()):
        context.check()
        _index_batch(context, store, batch)
        done += len(batch)
        context.progress(done, total, "files")
    with context.transaction() as session:
        refresh_statistics(session)
        repository.get_store(session, store.id, lock=True)
        after_change(session, store.id)
        counts = repository.file_counts(session, [store.id])[store.id]
        context.succeed(session, {"vector_store_id": store.id, "file_counts": counts})


def _batches(todo: Sequence[Todo], settings: RetrievalSettings) -> Iterator[list[Todo]]:
    batch: list[Todo] = []
    size = 0
    for one in todo:
        full = len(batch) >= settings.files_per_transaction or size + one.file.bytes > settings.bytes_per_transaction
        if batch and full:
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += one.file.bytes
    if batch:
        yield batch


def _index_batch(context: JobContext, store: VectorStore, todo: Sequence[Todo]) -> None:
    """Read, cut and embed outside the transaction, write inside; a file that cannot be read fails alone."""
    wiring: RetrievalWiring = context.wiring  # type: ignore[assignment]
    embedder = wiring.embedder(store.embedder)
    cuts: list[tuple[SourceFile, str, list[Chunk], dict[str, int]]] = []
    refused: list[tuple[SourceFile, UpliftError]] = []
    for file, sizes in ((one.file, sizes_used(one.chunking, embedder.most_tokens)) for one in todo):
        try:
            with wiring.storage.open(store.project_id, file.blob_key) as stream:
                text = to_text(file.filename, stream.read())
        except (UnsupportedFile, InvalidFile, NotFound) as error:
            refused.append((file, error))
            continue
        title = document_title(text, file.filename.rsplit("/", 1)[-1].rsplit(".", 1)[0])
        cuts.append((file, title, _cut(sizes, embedder, text, title), sizes))
    vectors = _embed(context, embedder, [chunk for _, _, chunks, _ in cuts for chunk in chunks])
    bounds = np.cumsum([len(chunks) for _, _, chunks, _ in cuts])[:-1]
    parts = np.split(vectors, bounds) if cuts else []
    indexed = [Indexed(*one, own) for one, own in zip(cuts, parts, strict=True)]
    with context.transaction() as session:
        # a file that was detached, attached anew or cancelled in the meantime is not this job's any more
        repository.get_store(session, store.id)
        still = repository.waiting_files(session, store.id, context.job.id, lock=[one.file.id for one in todo])
        replace_documents(session, store, [one for one in indexed if one.file.id in still])
        for file, refusal in refused:
            if file.id in still:
                free_documents(session, store.id, [file.id])
                code = _FILE_ERRORS.get(type(refusal), "server_error")
                repository.fail_file(session, store.id, file.id, code=code, message=refusal.message)


def _cut(sizes: dict[str, int], embedder: Embedder, text: str, title: str) -> list[Chunk]:
    return cut(
        text,
        fallback_title=title,
        count=lambda piece: embedder.count_tokens([piece])[0],
        most=sizes["most"],
        overlap=sizes["overlap"],
        whole=embedder.most_tokens,
    )


def _embed(context: JobContext, embedder: Embedder, chunks: Sequence[Chunk]) -> Vectors:
    """(len(chunks), dimensions); a large file can be cancelled between parts."""
    parts = []
    for begin in range(0, len(chunks), _TEXTS_BETWEEN_CHECKS):
        context.check()
        some = chunks[begin : begin + _TEXTS_BETWEEN_CHECKS]
        parts.append(embedder.embed([f"{chunk.title}\n{chunk.text}" for chunk in some]))
    return np.concatenate(parts) if parts else embedder.embed([])
