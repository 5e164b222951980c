"""What generation does: answer, and keep prompts, variants and releases."""

import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from services.generation import repository
from services.generation.answering import AdapterRef, GenerationEngine, GenerationRequest
from services.generation.catalogue import model_object
from services.generation.chat import completion
from services.generation.chat_schemas import ChatCompletion
from services.generation.domain import Answerer, pointed, rolled_back
from services.generation.errors import (
    AliasTaken,
    ModelNotFound,
    NothingToRollBack,
    PassagesUnread,
    UnsupportedParameter,
    VariantNotFound,
)
from services.generation.local_models import base_model_folder
from services.generation.resolving import resolve_now
from services.generation.tables import Release, Variant
from services.generation.wiring import GenerationWiring
from services.generation.writing import Written, sampling
from shared import jobs
from shared.clock import now
from shared.errors import Forbidden
from shared.ids import new_id
from shared.jobs import JobContext
from shared.live import LiveContext
from shared.live.bodies import read_body
from shared.messages import DeleteWeights, OrderedVariant, OrderRelease, OrderVariants
from shared.prompt_format import Passage, PromptSpec, render, within
from shared.weights import lock_weights

_SEARCH_SECONDS = 60.0


def answer_chat(context: LiveContext, body: dict[str, Any]) -> dict[str, Any]:
    """Live "generation.chat": resolve the model, fetch its passages, lay out the prompt, generate."""
    wiring: GenerationWiring = context.wiring
    answerer = resolve_now(wiring.database, context.project_id, wiring.settings.models_dir, body["model"])
    weights = _weights(wiring, context.project_id, answerer)
    whole = weights is not None and weights.is_whole_model
    engine = wiring.engine(str(weights.folder) if weights is not None and whole else answerer.base_model)
    passages = _passages(context, answerer, body["messages"], engine)
    request = GenerationRequest(
        messages=render(answerer.prompt, body["messages"], passages),
        sampling=sampling(body, answerer.sampling, wiring.settings.default_max_tokens),
        adapter=None if whole else weights,
        choices=body.get("n", 1),
        max_tokens_param=body.get("max_tokens_param") if body.get("max_tokens") else None,
        deadline=time.monotonic() + context.remaining(),
        abandoned=context.cancelled,
        interactive=not context.batch,
    )
    pieces = engine.submit(request)  # it computes from here on; whatever else there is to do is done meanwhile
    written = Written(answerer, request, emit=context.emit if body.get("stream") else None)
    for piece in pieces:
        written.add(piece)
    return written.reply() | {"citations": [_citation(passage) for passage in passages]}


def complete_chat(context: LiveContext, body: dict[str, Any]) -> dict[str, Any]:
    """Live "generation.completion": a body as clients write it (a line of a batch), checked and answered whole."""
    order = read_body(ChatCompletion, body)
    if order.stream:
        raise UnsupportedParameter("A batch answers whole: leave stream out.", param="stream")
    if order.store:
        raise UnsupportedParameter("A batch's answers are kept in its output file: leave store out.", param="store")
    return completion(answer_chat(context, order.live_body()))


def create_variant(session: Session, project_id: str, wanted: OrderedVariant, *, models_dir: Any) -> Variant:
    """A variant of this content, made if it is new. Raises when one of its parts is not there."""
    if base_model_folder(models_dir, wanted.base_model) is None:
        raise ModelNotFound(f"There is no base model {wanted.base_model!r} here.", param="base_model")
    if wanted.adapter_id is not None:
        _check_adapter(session, wanted.adapter_id, wanted.base_model)
    if wanted.retrieval is not None:
        repository.check_vector_store(session, wanted.retrieval.vector_store_id)
    prompt = _prompt(wanted)
    prompt_id = repository.save_prompt(session, project_id, wanted.name, prompt).id if prompt else None
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
    taken = taken or repository.checkpoint(session, model_id) is not None
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


def delete_model(session: Session, project_id: str, model: str, *, models_dir: Any) -> None:
    """Delete a release, a variant, a fine-tuned model or a checkpoint by its model id.

    The weights are training's: it is ordered to delete them, and until it has time nothing answers with them any more.
    Raises VariantInUse, AdapterInUse, Forbidden for models that the project does not own, ModelNotFound.
    """
    release = repository.release_by_model(session, model, lock=True)
    variant = repository.variant_by_model(session, model)
    if release is not None:
        session.delete(release)
    elif variant is not None:
        repository.delete_variant(session, variant)
    elif (tuned := repository.adapter(session, model_id=model) or repository.checkpoint(session, model)) is not None:
        weights, _ = tuned
        repository.check_unused(session, weights)
        jobs.send(session, project_id, DeleteWeights(weights_id=weights.id), subject_id=weights.id)
    else:
        model_object(session, models_dir, model)
        raise Forbidden(f"{model!r} belongs to every project of this platform; it cannot be deleted.", param="model")


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


def _prompt(wanted: OrderedVariant) -> PromptSpec | None:
    """The prompt that was ordered; a variant that retrieves needs one with a place for passages."""
    if wanted.prompt is None:
        return PromptSpec(with_passages=True) if wanted.retrieval else None
    prompt = PromptSpec.model_validate(wanted.prompt)
    if wanted.retrieval and not prompt.with_passages:
        raise PassagesUnread(
            "The variant retrieves passages, but its prompt's `with_passages` is false: nobody would read them.",
            param="prompt",
        )
    return prompt


def _check_adapter(session: Session, adapter_id: str, base_model: str) -> None:
    lock_weights(session, adapter_id)
    found = repository.adapter(session, id=adapter_id)
    if found is None:
        raise VariantNotFound(f"There is no adapter {adapter_id!r} in this project.", param="adapter")
    if found[1] != base_model:
        raise VariantNotFound(f"Adapter {adapter_id} was trained on {found[1]}, not on {base_model}.", param="adapter")


def _passages(
    context: LiveContext, answerer: Answerer, messages: list[dict[str, str]], engine: GenerationEngine
) -> list[Passage]:
    """What the retriever finds for the question and the model will read; citations name no more than that.

    Asks on the queue of the same class as the caller's.
    """
    retrieval, last = answerer.retrieval, messages[-1]
    if retrieval is None or not answerer.prompt.with_passages or last["role"] != "user":
        return []
    answer = context.wiring.live.ask(
        "retrieval.batch" if context.batch else "retrieval.interactive",
        "retrieval.search",
        context.project_id,
        {"vector_store_id": retrieval.vector_store_id, "query": last["content"], "k": retrieval.k},
        timeout_s=min(_SEARCH_SECONDS, context.remaining()),
    )
    found = [Passage.model_validate(passage) for passage in answer["results"][0]]
    return within(found, engine.count_tokens, retrieval.max_passage_tokens)


def _weights(wiring: GenerationWiring, project_id: str, answerer: Answerer) -> AdapterRef | None:
    if answerer.adapter is None:
        return None
    return AdapterRef(answerer.adapter.id, wiring.storage.local_folder(project_id, answerer.adapter.blob_key))


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
LIVE_HANDLERS = {"generation.chat": answer_chat, "generation.completion": complete_chat}
