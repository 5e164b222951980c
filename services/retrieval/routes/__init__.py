"""Vector stores, their files and batches, search and embeddings over HTTP, as OpenAI's client calls them."""

from fastapi import APIRouter

from services.retrieval.routes import batches, embeddings, files, stores

router = APIRouter(tags=["retrieval"])
for part in (stores, files, batches, embeddings):
    router.include_router(part.router)
