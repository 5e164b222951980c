"""Embeddings."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from services.retrieval.answers import EmbeddingList
from services.retrieval.embeddings import embedding_list, texts
from services.retrieval.routes.edge import Live, Who
from services.retrieval.schemas import CreateEmbedding
from shared.answers import answering
from shared.web import while_connected

router = APIRouter()
_EMBED_SECONDS = 120.0


@router.post("/embeddings", responses=answering(EmbeddingList))
async def create_embeddings(request: Request, body: CreateEmbedding, who: Who, live: Live) -> dict[str, Any]:
    """Unit vectors; base64 is little-endian float32, as the client decodes it."""
    order = {"model": body.model, "input": texts(body.input)}
    asked = live.ask("retrieval.interactive", "retrieval.embed", who.project_id, order, timeout_s=_EMBED_SECONDS)
    answer = await while_connected(request, asked)
    who.charge_tokens(answer["prompt_tokens"])
    return await run_in_threadpool(embedding_list, body, answer)  # decimals of 2,048 vectors take a while
