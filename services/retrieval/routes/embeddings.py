"""Embeddings."""

from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from services.retrieval.embeddings import embedding_list, texts
from services.retrieval.routes.edge import Live, Who
from services.retrieval.schemas import CreateEmbedding

router = APIRouter()
_EMBED_SECONDS = 120.0


@router.post("/embeddings")
async def create_embeddings(body: CreateEmbedding, who: Who, live: Live) -> dict[str, Any]:
    """Unit vectors; base64 is little-endian float32, as the client decodes it."""
    answer = await live.ask(
        "retrieval.interactive",
        "retrieval.embed",
        who.project_id,
        {"model": body.model, "input": texts(body.input)},
        timeout_s=_EMBED_SECONDS,
    )
    who.charge_tokens(answer["prompt_tokens"])
    return await run_in_threadpool(embedding_list, body, answer)  # decimals of 2,048 vectors take a while
