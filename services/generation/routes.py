"""Chat, models, prompts, variants and releases over HTTP."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from services.generation import chat, handlers, repository
from services.generation.answers import (
    DeletedModel,
    ModelList,
    ModelObject,
    PromptObject,
    ReleaseObject,
    VariantObject,
)
from services.generation.catalogue import model_list, model_object
from services.generation.chat_answers import ChatCompletionObject
from services.generation.chat_schemas import ChatCompletion
from services.generation.schemas import CreatePrompt, CreateRelease, CreateVariant
from services.generation.stored.routes import keeping
from services.generation.tables import Prompt, Release, Variant
from shared.answers import Page, answering
from shared.clock import unix
from shared.live import AsyncLiveClient, Reply
from shared.messages import OrderedVariant
from shared.straight_route import StraightRoute
from shared.web import Caller, caller, metered, page, while_connected, wiring
from shared.wiring import Wiring

router = APIRouter(tags=["generation"])
Who = Annotated[Caller, Depends(caller)]
Parts = Annotated[Wiring, Depends(wiring)]
Limit = Annotated[int, Query(ge=1, le=100)]
_ANSWER_SECONDS = 600.0


async def create_completion(request: Request, body: ChatCompletion) -> Response:
    """Ask any model id: base model, adapter (fine-tuned model), checkpoint, variant or release.

    A variant that retrieves answers with `citations` beside OpenAI's fields: `{file_id, document, passage_id, title,
    text, score}` of every passage that the model read; in a stream they are on the last finish chunk. JSON asked for by
    `response_format` is decoded under a grammar, so it cannot be malformed, only cut off by the token limit. What
    cannot be honoured (tools, audio, images, …) is a 400 that names the field. With `store` the answer is kept, and
    that is done before its end is sent.
    """
    # taken here and not as dependencies, whose resolution is a tenth of what the gateway runs for a chat
    who: Caller = request.state.caller
    live: AsyncLiveClient = request.app.state.asking
    asked = live.stream(
        "generation.interactive",
        "generation.chat",
        who.project_id,
        body.live_body(),
        timeout_s=_ANSWER_SECONDS,
        request_id=who.request_id,
    )
    replies = metered(asked, who)
    keep = await keeping(request, body, who) if body.store else None
    if not body.stream:
        answer = chat.completion(await while_connected(request, _last(replies)))
        if keep is not None:
            await keep(answer)
        return JSONResponse(answer)
    usage = body.stream_options is not None and body.stream_options.include_usage
    # what is refused before the first token (a full queue, an unknown model, too long a prompt) is still a status
    first = await while_connected(request, anext(replies))
    rest = _with_first(first, replies)
    stream = chat.chunks(rest, body.model, choices=body.n or 1, include_usage=usage, keep=keep)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


router.add_api_route(
    "/chat/completions",
    create_completion,
    methods=["POST"],
    response_model=None,
    responses=answering(ChatCompletionObject),
    route_class_override=StraightRoute,
)


@router.get("/models", responses=answering(ModelList))
def list_models(who: Who, parts: Parts) -> dict[str, Any]:
    """Base models first, then releases, variants and adapters newest first, embedders last."""
    with parts.database.transaction(who.project_id) as session:
        return {"object": "list", "data": model_list(session, parts.settings.models_dir)}


@router.get("/models/{model:path}", responses=answering(ModelObject))
def show_model(model: str, who: Who, parts: Parts) -> dict[str, Any]:
    """One model by its id."""
    with parts.database.transaction(who.project_id) as session:
        return model_object(session, parts.settings.models_dir, model)


@router.delete("/models/{model:path}", responses=answering(DeletedModel))
def delete_model(model: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Delete a fine-tuned model, a checkpoint, a variant or a release; it answers no more from now on.

    A variant that a release needs is refused (400), and so are weights that a variant or an unfinished training job,
    search or export needs; base models are refused, too (403).
    """
    with parts.database.transaction(who.project_id) as session:
        handlers.delete_model(session, who.project_id, model, models_dir=parts.settings.models_dir)
    return {"id": model, "object": "model", "deleted": True}


@router.post("/prompts", responses=answering(PromptObject))
def create_prompt(body: CreatePrompt, who: Who, parts: Parts) -> dict[str, Any]:
    """A new version of a prompt; the same content again is the same version."""
    with parts.database.transaction(who.project_id) as session:
        return prompt_object(repository.save_prompt(session, who.project_id, body.name, body.spec))


@router.get("/prompts", responses=answering(Page[PromptObject]))
def list_prompts(
    who: Who, parts: Parts, name: str | None = None, after: str | None = None, limit: Limit = 20
) -> dict[str, Any]:
    """Prompt versions, newest first."""
    with parts.database.transaction(who.project_id) as session:
        found, more = repository.list_prompts(session, name=name, after=after, limit=limit)
        return page([prompt_object(one) for one in found], has_more=more)


@router.get("/prompts/{prompt_id}", responses=answering(PromptObject))
def show_prompt(prompt_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """One version of a prompt."""
    with parts.database.transaction(who.project_id) as session:
        return prompt_object(repository.prompt(session, prompt_id))


@router.post("/variants", responses=answering(VariantObject))
def create_variant(body: CreateVariant, who: Who, parts: Parts) -> dict[str, Any]:
    """A variant; equal content is one variant, however often it is created."""
    wanted = OrderedVariant(
        key="",
        name=body.name,
        base_model=body.base_model,
        adapter_id=body.adapter,
        prompt=body.prompt.model_dump(mode="json") if body.prompt else None,
        retrieval=body.retrieval,
        sampling=body.sampling,
    )
    with parts.database.transaction(who.project_id) as session:
        models_dir = parts.settings.models_dir
        return variant_object(handlers.create_variant(session, who.project_id, wanted, models_dir=models_dir))


@router.get("/variants", responses=answering(Page[VariantObject]))
def list_variants(who: Who, parts: Parts, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
    """The project's variants, newest first."""
    with parts.database.transaction(who.project_id) as session:
        found, more = repository.list_variants(session, after=after, limit=limit)
        return page([variant_object(one) for one in found], has_more=more)


@router.get("/variants/{variant_id}", responses=answering(VariantObject))
def show_variant(variant_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """One variant: all that decides its answers."""
    with parts.database.transaction(who.project_id) as session:
        return variant_object(repository.variant(session, variant_id))


@router.post("/releases", responses=answering(ReleaseObject))
def create_release(body: CreateRelease, who: Who, parts: Parts) -> dict[str, Any]:
    """Point a stable model id at a variant."""
    with parts.database.transaction(who.project_id) as session:
        made = handlers.point_release(
            session,
            who.project_id,
            body.model_id,
            body.variant,
            body.evidence,
            models_dir=parts.settings.models_dir,
        )
        return release_object(made)


@router.get("/releases", responses=answering(Page[ReleaseObject]))
def list_releases(who: Who, parts: Parts) -> dict[str, Any]:
    """The project's releases with their histories."""
    with parts.database.transaction(who.project_id) as session:
        return page([release_object(one) for one in repository.releases(session)], has_more=False)


@router.post("/releases/{release_id}/rollback", responses=answering(ReleaseObject))
def roll_back_release(release_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Point a release to the variant before."""
    with parts.database.transaction(who.project_id) as session:
        return release_object(handlers.roll_back(session, release_id))


async def _last(replies: AsyncIterator[Reply]) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    async for reply in replies:
        answer = reply.data
    return answer


async def _with_first(first: Reply, rest: AsyncIterator[Reply]) -> AsyncIterator[Reply]:
    yield first
    async for reply in rest:
        yield reply


def prompt_object(row: Prompt) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "prompt",
        "name": row.name,
        "version": row.version,
        "spec": row.spec,
        "created_at": unix(row.created_at),
    }


def variant_object(row: Variant) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "variant",
        "model": row.model_id,
        "name": row.name,
        "base_model": row.base_model,
        "adapter": row.adapter_id,
        "prompt": row.prompt_id,
        "retrieval": row.retrieval,
        "sampling": row.sampling,
        "created_at": unix(row.created_at),
    }


def release_object(row: Release) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "release",
        "model": row.model_id,
        "variant": row.variant_id,
        "history": row.history,
        "created_at": unix(row.created_at),
        "updated_at": unix(row.updated_at),
    }
