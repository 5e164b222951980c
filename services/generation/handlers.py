"""What generation does: answer, and keep prompts, variants and releases."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from services.generation import repository
from services.generation.answering import AdapterRef, Delta, Finished, GenerationEngine, GenerationRequest, Sampling
from services.generation.domain import Answerer, pointed, rolled_back
from services.generation.errors import AliasTaken, ModelNotFound, NothingToRollBack, VariantNotFound
from services.generation.local_models import base_model_folder
from services.generation.resolving import resolve
from services.generation.settings import GenerationSettings
from services.generation.tables import Release, Variant
from services.generation.wiring import GenerationWiring
from shared.clock import now
from shared.errors import DeadlineExceeded
from shared.ids import new_id
from shared.jobs import JobContext
from shared.live import LiveContext
from shared.messages import OrderedVariant, OrderRelease, OrderVariants
from shared.prompt_format import Passage, PromptSpec, render

_SEARCH_SECONDS = 60.0


def answer_chat(context: LiveContext, body: dict[str, Any]) -> dict[str, Any]:
    """Live "generation.chat": resolve the model, fetch its passages, lay out the prompt, generate."""
    wiring: GenerationWiring = context.wiring
    with wiring.database.transaction(context.project_id) as session:
        answerer = resolve(session, wiring.settings.models_dir, body["model"])
    passages = _passages(context, answerer, body["messages"])
    engine = wiring.engine(answerer.base_model)
    messages = _laid_out(engine, answerer, body["messages"], passages)
    request = GenerationRequest(
        messages=messages,
        sampling=_sampling(body, answerer.sampling),
        adapter=_adapter(wiring, context.project_id, answerer),
    )
    text, finished = _collect(context, engine, request, stream=bool(body.get("stream")))
    return {
        "model": answerer.model,
        "text": text,
        "finish_reason": finished.reason,
        "usage": {
            "prompt_tokens": finished.prompt_tokens,
            "completion_tokens": finished.completion_tokens,
            "total_tokens": finished.prompt_tokens + finished.completion_tokens,
        },
        "citations": [_citation(passage) for passage in passages],
        "timings": {
            "queue_ms": finished.queue_ms,
            "prefill_ms": finished.prefill_ms,
            "total_ms": finished.total_ms,
        },
    }


def create_variant(session: Session, project_id: str, wanted: OrderedVariant, *, models_dir: Any) -> Variant:
    """A variant of this content, made if it is new. Raises when one of its parts is not there."""
    if base_model_folder(models_dir, wanted.base_model) is None:
        raise ModelNotFound(f"There is no base model {wanted.base_model!r} here.", param="base_model")
    if wanted.adapter_id is not None:
        _check_adapter(session, wanted.adapter_id, wanted.base_model)
    prompt_id = None
    if wanted.prompt is not None:
        prompt_id = repository.save_prompt(
            session, project_id, wanted.name, PromptSpec.model_validate(wanted.prompt)
        ).id
    content = {
        "base_model": wanted.base_model,
        "adapter_id": wanted.adapter_id,
        "prompt_id": prompt_id,
        "retrieval": wanted.retrieval.model_dump() if wanted.retrieval else None,
        "sampling": wanted.sampling.model_dump(),
    }
    return repository.save_variant(session, project_id, wanted.name, content)


def point_release(
    session: Session, project_id: str, model_id: str, variant_id: str, evidence: Mapping[str, Any], *, models_dir: Any
) -> Release:
    """Let a stable model id answer with this variant from now on."""
    repository.variant(session, variant_id)
    taken = base_model_folder(models_dir, model_id) is not None
    taken = taken or repository.variant_by_model(session, model_id) is not None
    if taken or repository.adapter(session, model_id=model_id) is not None:
        raise AliasTaken(f"{model_id!r} is already the id of another model; choose another alias.", param="model_id")
    found = repository.release_by_model(session, model_id, lock=True)
    if found is None:
        found = Release(id=new_id("rel_"), project_id=project_id, model_id=model_id, variant_id=variant_id, history=[])
        session.add(found)
    found.variant_id = variant_id
    found.history = pointed(found.history, variant_id, evidence, now().isoformat())
    found.updated_at = now()
    session.flush()
    return found


def roll_back(session: Session, release_id: str) -> Release:
    """Point the release to the variant it pointed to before."""
    found = repository.release(session, release_id, lock=True)
    before = rolled_back(found.history)
    if before is None:
        raise NothingToRollBack(f"Release {found.model_id!r} has pointed to one variant only.", param="release_id")
    found.history, found.variant_id = before
    found.updated_at = now()
    session.flush()
    return found


def order_variants(context: JobContext, order: OrderVariants) -> None:
    """Create every variant of the order, or none."""
    models_dir = context.wiring.settings.models_dir
    with context.transaction() as session:
        made = {
            one.key: create_variant(session, context.project_id, one, models_dir=models_dir) for one in order.variants
        }
        answer = {key: {"variant_id": found.id, "model_id": found.model_id} for key, found in made.items()}
        context.succeed(session, {"variants": answer})


def order_release(context: JobContext, order: OrderRelease) -> None:
    """Point a release as an experiment's evidence asks."""
    models_dir = context.wiring.settings.models_dir
    with context.transaction() as session:
        found = point_release(
            session, context.project_id, order.model_id, order.variant_id, order.evidence, models_dir=models_dir
        )
        context.succeed(session, {"release_id": found.id, "model_id": found.model_id})


def _check_adapter(session: Session, adapter_id: str, base_model: str) -> None:
    found = repository.adapter(session, id=adapter_id)
    if found is None:
        raise VariantNotFound(f"There is no adapter {adapter_id!r} in this project.", param="adapter_id")
    if found[1] != base_model:
        raise VariantNotFound(
            f"Adapter {adapter_id} was trained on {found[1]}, not on {base_model}.", param="adapter_id"
        )


def _passages(context: LiveContext, answerer: Answerer, messages: list[dict[str, str]]) -> list[Passage]:
    """What the retriever finds for the last user message, on the queue of the same class as the caller's."""
    if answerer.retrieval is None:
        return []
    question = next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
    answer = context.wiring.live.ask(
        "retrieval.batch" if context.batch else "retrieval.interactive",
        "retrieval.search",
        context.project_id,
        {"vector_store_id": answerer.retrieval.vector_store_id, "query": question, "k": answerer.retrieval.k},
        timeout_s=min(_SEARCH_SECONDS, context.remaining()),
    )
    return [Passage.model_validate(found) for found in answer["results"][0]]


def _laid_out(
    engine: GenerationEngine, answerer: Answerer, messages: list[dict[str, str]], passages: list[Passage]
) -> list[dict[str, str]]:
    budget = answerer.retrieval.max_passage_tokens if answerer.retrieval else None
    return render(answerer.prompt, messages, passages, fit=engine.count_tokens, budget=budget)


def _sampling(body: Mapping[str, Any], defaults: Mapping[str, Any]) -> Sampling:
    """The request's own choices, then the variant's, then ours."""

    def chosen(name: str, otherwise: Any) -> Any:
        return next((found for found in (body.get(name), defaults.get(name)) if found is not None), otherwise)

    stop = body.get("stop") or ()
    return Sampling(
        temperature=float(chosen("temperature", 1.0)),
        top_p=float(chosen("top_p", 1.0)),
        max_tokens=int(chosen("max_tokens", GenerationSettings().default_max_tokens)),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        seed=body.get("seed"),
    )


def _adapter(wiring: GenerationWiring, project_id: str, answerer: Answerer) -> AdapterRef | None:
    if answerer.adapter is None:
        return None
    return AdapterRef(answerer.adapter.id, wiring.storage.local_folder(project_id, answerer.adapter.blob_key))


def _collect(
    context: LiveContext, engine: GenerationEngine, request: GenerationRequest, *, stream: bool
) -> tuple[str, Finished]:
    """Pass deltas on as they come; stop at a cancellation or the deadline."""
    found = engine.submit(request)
    parts: list[str] = []
    late = False
    for piece in found:
        if isinstance(piece, Finished):
            if late:
                break
            return "".join(parts), piece
        assert isinstance(piece, Delta)
        parts.append(piece.text)
        if stream:
            context.emit({"text": piece.text})
        late = late or context.remaining() == 0
        if late or context.cancelled():
            found.cancel()
    raise DeadlineExceeded("The answer was not complete when the deadline passed. Ask for fewer tokens.")


def _citation(passage: Passage) -> dict[str, Any]:
    return {
        "file_id": passage.file_id,
        "document": passage.document,
        "passage_id": passage.id,
        "title": passage.title,
        "text": passage.text,
        "score": passage.score,
    }


JOB_HANDLERS = {OrderVariants: order_variants, OrderRelease: order_release}
LIVE_HANDLERS = {"generation.chat": answer_chat}
