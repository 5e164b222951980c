"""What retrieval does: create stores, index files into passages, search, embed."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from services.retrieval import repository
from services.retrieval.errors import TextTooLong
from services.retrieval.extract import storable
from services.retrieval.indexing import index_vector_store
from services.retrieval.schemas import EmbedBody, SearchBody, read_body
from services.retrieval.search import search
from services.retrieval.settings import RetrievalSettings
from services.retrieval.tables import VectorStore
from services.retrieval.wiring import RetrievalWiring
from shared import jobs
from shared.ids import new_id
from shared.live import LiveContext
from shared.messages import IndexVectorStore


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


def fresh_store(session: Session, store_id: str) -> VectorStore:
    """The store with its true state, also when the job that indexed it died."""
    store = repository.get_store(session, store_id)
    if store.status == "in_progress":
        repository.settle(session, store_id)
        session.refresh(store)
    return store


def answer_search(context: LiveContext, body: dict[str, Any]) -> dict[str, Any]:
    """Live "retrieval.search": one result list per query."""
    wiring: RetrievalWiring = context.wiring
    asked = read_body(SearchBody, body)
    queries = [storable(query) for query in ([asked.query] if isinstance(asked.query, str) else asked.query)]
    with wiring.database.transaction(context.project_id) as session:
        embedder_name = repository.get_store(session, asked.vector_store_id).embedder
    vectors = wiring.embedder(embedder_name).embed(queries) if asked.mode != "text" else [None] * len(queries)
    with wiring.database.transaction(context.project_id) as session:
        results = [
            search(session, asked.vector_store_id, query, vector, k=asked.k, mode=asked.mode, filters=asked.filters)
            for query, vector in zip(queries, vectors, strict=True)
        ]
    return {"results": results}


def answer_embed(context: LiveContext, body: dict[str, Any]) -> dict[str, Any]:
    """Live "retrieval.embed": unit vectors and the exact token count. A text too long is refused, never cut."""
    wiring: RetrievalWiring = context.wiring
    asked = read_body(EmbedBody, body)
    embedder = wiring.embedder(asked.model)
    texts = [storable(text) for text in asked.input]
    tokens = embedder.count_tokens(texts)
    for number, found in enumerate(tokens):
        if found > embedder.most_tokens:
            raise TextTooLong(
                f"Input {number} has {found} tokens; {asked.model} reads at most {embedder.most_tokens}.", param="input"
            )
    return {"embeddings": embedder.embed(texts).tolist(), "prompt_tokens": sum(tokens)}


JOB_HANDLERS = {IndexVectorStore: index_vector_store}
LIVE_HANDLERS = {"retrieval.search": answer_search, "retrieval.embed": answer_embed}
