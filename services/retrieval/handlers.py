"""What the retrieval worker answers: searches, embeddings, and (in the table below) its jobs."""

from typing import Any

from services.retrieval import repository
from services.retrieval.embedder import Embedder
from services.retrieval.embeddings import embedding_list, texts
from services.retrieval.errors import EmbedderNotFound, NotAnEmbedder, TextTooLong
from services.retrieval.extract import storable
from services.retrieval.indexing import index_vector_store
from services.retrieval.schemas import CreateEmbedding, EmbedBody, SearchBody
from services.retrieval.search import search
from services.retrieval.store_life import free_vector_store
from services.retrieval.wiring import RetrievalWiring
from shared.live import LiveContext
from shared.live.bodies import read_body
from shared.live.vectors import packed
from shared.messages import FreeVectorStore, IndexVectorStore


def answer_search(context: LiveContext, body: dict[str, Any]) -> dict[str, Any]:
    """Live "retrieval.search": one result list per query."""
    wiring: RetrievalWiring = context.wiring
    asked = read_body(SearchBody, body)
    queries = [storable(query) for query in ([asked.query] if isinstance(asked.query, str) else asked.query)]
    with wiring.database.transaction(context.project_id) as session:
        embedder_name = repository.usable_store(session, asked.vector_store_id).embedder
    vectors = wiring.embedder(embedder_name).embed(queries) if asked.mode != "text" else [None] * len(queries)
    with wiring.database.transaction(context.project_id) as session:
        results = [
            search(session, asked.vector_store_id, query, vector, k=asked.k, mode=asked.mode, filters=asked.filters)
            for query, vector in zip(queries, vectors, strict=True)
        ]
    return {"results": results}


def answer_embed(context: LiveContext, body: dict[str, Any]) -> dict[str, Any]:
    """Live "retrieval.embed": unit vectors and the exact token count. A text too long is refused, never cut."""
    asked = read_body(EmbedBody, body)
    embedder = _embedder(context, asked.model)
    stored = [storable(text) for text in asked.input]
    tokens = embedder.count_tokens(stored)
    for number, found in enumerate(tokens):
        if found > embedder.most_tokens:
            raise TextTooLong(
                f"Invalid 'input[{number}]': it has {found} tokens; {asked.model} reads at most "
                f"{embedder.most_tokens}. Send it in parts.",
                param="input",
            )
    return packed(embedder.embed(stored)) | {"prompt_tokens": sum(tokens)}


def answer_embeddings(context: LiveContext, body: dict[str, Any]) -> dict[str, Any]:
    """Live "retrieval.embeddings": a body as OpenAI's clients write it (a line of a batch), answered whole."""
    asked = read_body(CreateEmbedding, body)
    found = answer_embed(context, {"model": asked.model, "input": texts(asked.input)})
    return embedding_list(asked, found)


def _embedder(context: LiveContext, name: str) -> Embedder:
    wiring: RetrievalWiring = context.wiring
    try:
        return wiring.embedder(name)
    except EmbedderNotFound as unknown:
        with wiring.database.transaction(context.project_id) as session:
            if repository.answers_in_words(session, name):
                raise NotAnEmbedder.of(name) from unknown
        raise


JOB_HANDLERS = {IndexVectorStore: index_vector_store, FreeVectorStore: free_vector_store}
LIVE_HANDLERS = {
    "retrieval.search": answer_search,
    "retrieval.embed": answer_embed,
    "retrieval.embeddings": answer_embeddings,
}
