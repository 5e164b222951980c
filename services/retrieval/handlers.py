"""What retrieval does: create stores, index files into passages, search, embed."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from services.retrieval import repository
from services.retrieval.errors import UnsupportedFile
from services.retrieval.extract import to_text
from services.retrieval.passages import cut, document_title
from services.retrieval.repository import SourceFile
from services.retrieval.search import MODES, search
from services.retrieval.settings import RetrievalSettings
from services.retrieval.tables import VectorStore
from services.retrieval.wiring import RetrievalWiring
from shared import jobs
from shared.errors import InvalidInput
from shared.ids import new_id
from shared.jobs import JobContext
from shared.live import LiveContext
from shared.messages import IndexVectorStore

_MOST_K = 50


def create_store(
    session: Session,
    project_id: str,
    *,
    name: str,
    file_ids: Sequence[str],
    metadata: dict[str, Any],
    chunking: dict[str, Any] | None,
    settings: RetrievalSettings,
) -> VectorStore:
    """A store and, if it has files, the order to index them."""
    store = VectorStore(
        id=new_id("vs_"),
        project_id=project_id,
        name=name,
        embedder=settings.embedder,
        chunking=chunking or {"most": settings.passage_tokens, "overlap": settings.passage_overlap},
        metadata_=metadata,
        status="in_progress" if file_ids else "completed",
    )
    session.add(store)
    session.flush()
    if file_ids:
        attach_files(session, store, file_ids, {})
    session.refresh(store)
    return store


def attach_files(session: Session, store: VectorStore, file_ids: Sequence[str], attributes: dict[str, Any]) -> None:
    """Add files to a store and order their indexing."""
    unique = list(dict.fromkeys(file_ids))
    repository.add_files(session, store, repository.source_files(session, unique), attributes)
    store.status = "in_progress"
    command = IndexVectorStore(vector_store_id=store.id, file_ids=unique)
    jobs.send(session, store.project_id, command, subject_id=store.id)


def index_vector_store(context: JobContext, order: IndexVectorStore) -> None:
    """Index what still waits, some files a transaction; a resumed job goes on where the last one stopped."""
    wiring: RetrievalWiring = context.wiring  # type: ignore[assignment]
    per_batch = RetrievalSettings().files_per_transaction
    with context.transaction() as session:
        store = repository.get_store(session, order.vector_store_id)
        waiting = repository.waiting_files(session, store.id, order.file_ids)
        files = iter(repository.source_files(session, waiting))
    done = len(order.file_ids) - len(waiting)
    while batch := list(islice(files, per_batch)):
        context.check()
        _index_batch(context, wiring, store, batch)
        done += len(batch)
        context.progress(done, len(order.file_ids), "files")
    with context.transaction() as session:
        repository.refresh_statistics(session)
        repository.finish_store(session, store.id)
        counts = repository.file_counts(session, [store.id])[store.id]
        context.succeed(session, {"vector_store_id": store.id, "file_counts": counts})


def _index_batch(context: JobContext, wiring: RetrievalWiring, store: VectorStore, files: list[SourceFile]) -> None:
    """Cut and embed outside the transaction, write inside; a file that cannot be read fails alone."""
    embedder = wiring.embedder(store.embedder)
    prepared, failed = [], []
    for file in files:
        try:
            with wiring.storage.open(store.project_id, file.blob_key) as stream:
                text = to_text(file.filename, stream.read())
        except UnsupportedFile as error:
            failed.append((file, error))
            continue
        title = document_title(text, file.filename.rsplit("/", 1)[-1].rsplit(".", 1)[0])
        chunks = cut(
            text,
            fallback_title=title,
            count=lambda piece: embedder.count_tokens([piece])[0],
            most=store.chunking["most"],
            overlap=store.chunking["overlap"],
        )
        prepared.append((file, title, chunks))
    vectors = embedder.embed([f"{chunk.title}\n{chunk.text}" for _, _, chunks in prepared for chunk in chunks])
    bounds = np.cumsum([len(chunks) for _, _, chunks in prepared])[:-1]
    with context.transaction() as session:
        for (file, title, chunks), own in zip(prepared, np.split(vectors, bounds) if prepared else [], strict=True):
            repository.replace_document(session, store, file, title, chunks, own)
        for file, refusal in failed:
            last_error = {"code": refusal.code, "message": refusal.message}
            repository.mark_file(session, store.id, file.id, "failed", last_error=last_error)


def answer_search(context: LiveContext, body: dict[str, Any]) -> dict[str, Any]:
    """Live "retrieval.search": one result list per query."""
    wiring: RetrievalWiring = context.wiring
    queries = [body["query"]] if isinstance(body["query"], str) else list(body["query"])
    mode, k = body.get("mode") or "hybrid", int(body.get("k") or 10)
    if mode not in MODES:
        raise InvalidInput(f"mode is one of {', '.join(MODES)}, not {mode!r}.", param="mode")
    if not 1 <= k <= _MOST_K:
        raise InvalidInput(f"k is between 1 and {_MOST_K}, not {k}.", param="k")
    with wiring.database.transaction(context.project_id) as session:
        embedder_name = repository.get_store(session, body["vector_store_id"]).embedder
    vectors = wiring.embedder(embedder_name).embed(queries) if mode != "text" else [None] * len(queries)
    with wiring.database.transaction(context.project_id) as session:
        results = [
            search(session, body["vector_store_id"], query, vector, k=k, mode=mode, filters=body.get("filters"))
            for query, vector in zip(queries, vectors, strict=True)
        ]
    return {"results": results}


def answer_embed(context: LiveContext, body: dict[str, Any]) -> dict[str, Any]:
    """Live "retrieval.embed": unit vectors and the exact token count."""
    wiring: RetrievalWiring = context.wiring
    embedder = wiring.embedder(body["model"])
    texts = list(body["input"])
    vectors = embedder.embed(texts)
    return {"embeddings": vectors.tolist(), "prompt_tokens": sum(embedder.count_tokens(texts))}


JOB_HANDLERS = {IndexVectorStore: index_vector_store}
LIVE_HANDLERS = {"retrieval.search": answer_search, "retrieval.embed": answer_embed}
