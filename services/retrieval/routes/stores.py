"""Vector stores and their search."""

from typing import Any

from fastapi import APIRouter, Request, Response

from services.retrieval import repository, store_life
from services.retrieval.answers import DeletedVectorStore, SearchResults, VectorStoreObject
from services.retrieval.embedder_reach import refuse_unread
from services.retrieval.ranking import best_of_each
from services.retrieval.routes.edge import Listed, Live, Parts, Who, ask_again
from services.retrieval.routes.objects import result_object, store_object
from services.retrieval.schemas import CreateStore, Search, UpdateStore
from services.retrieval.settings import RetrievalSettings
from shared.answers import Page, answering
from shared.web import page, while_connected

router = APIRouter(prefix="/vector_stores")
_SEARCH_SECONDS = 30.0


@router.post("", responses=answering(VectorStoreObject))
def create_store(body: CreateStore, who: Who, parts: Parts) -> dict[str, Any]:
    """Create a store; its files are indexed by a job, so it is `in_progress` at first."""
    settings, sizes = RetrievalSettings(), body.chunking_strategy.sizes() if body.chunking_strategy else None
    refuse_unread(sizes, parts.settings.models_dir, settings.embedder)
    with parts.database.transaction(who.project_id) as session:
        store = store_life.create_store(
            session,
            who.project_id,
            name=body.name or "",
            description=body.description,
            file_ids=body.file_ids,
            metadata=dict(body.metadata or {}),
            chunking=sizes,
            expires_days=body.expires_after.days if body.expires_after else None,
            settings=settings,
        )
        return store_object(store, repository.file_counts(session, [store.id])[store.id])


@router.get("", responses=answering(Page[VectorStoreObject]))
def list_stores(who: Who, parts: Parts, listed: Listed) -> dict[str, Any]:
    """The project's stores, newest first unless `order=asc`."""
    with parts.database.transaction(who.project_id) as session:
        found, more = repository.list_stores(session, listed)
        found = [store_life.freshen(session, store) for store in found]
        counts = repository.file_counts(session, [store.id for store in found])
        return page([store_object(store, counts[store.id]) for store in found], has_more=more)


@router.get("/{store_id}", responses=answering(VectorStoreObject))
def show_store(store_id: str, who: Who, parts: Parts, response: Response) -> dict[str, Any]:
    """One store with its file counts."""
    with parts.database.transaction(who.project_id) as session:
        store = store_life.fresh_store(session, store_id)
        shown = store_object(store, repository.file_counts(session, [store_id])[store_id])
    ask_again(response, shown["status"])
    return shown


@router.post("/{store_id}", responses=answering(VectorStoreObject))
def update_store(store_id: str, body: UpdateStore, who: Who, parts: Parts) -> dict[str, Any]:
    """Change name, metadata or expiry: what is left out stays, null clears. An expired store stays expired."""
    with parts.database.transaction(who.project_id) as session:
        store = store_life.update_store(session, store_id, body.changes())
        return store_object(store, repository.file_counts(session, [store_id])[store_id])


@router.delete("/{store_id}", responses=answering(DeletedVectorStore))
def delete_store(store_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Delete a store with its passages; the files themselves stay."""
    with parts.database.transaction(who.project_id) as session:
        store_life.delete_store(session, store_id)
    return {"id": store_id, "object": "vector_store.deleted", "deleted": True}


@router.post("/{store_id}/search", responses=answering(SearchResults))
async def search_store(request: Request, store_id: str, body: Search, who: Who, live: Live) -> dict[str, Any]:
    """The best passages for a query (or several), by words and meaning unless `mode` says otherwise."""
    queries = [body.query] if isinstance(body.query, str) else body.query
    order = {
        "vector_store_id": store_id,
        "query": queries,
        "k": body.max_num_results,
        "mode": body.mode,
        "filters": body.filters and body.filters.model_dump(),
    }
    asked = live.ask("retrieval.interactive", "retrieval.search", who.project_id, order, timeout_s=_SEARCH_SECONDS)
    answer = await while_connected(request, asked)
    least = body.ranking_options.score_threshold if body.ranking_options else None
    found = best_of_each(answer["results"], body.max_num_results)
    return {
        "object": "vector_store.search_results.page",
        "search_query": queries,
        "data": [result_object(result) for result in found if least is None or result["score"] >= least],
        "has_more": False,
        "next_page": None,
    }
