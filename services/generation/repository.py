"""Every query of the generation service."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import Session

from services.generation.domain import Adapter, digest
from services.generation.errors import (
    AdapterInUse,
    PromptNotFound,
    ReleaseNotFound,
    VariantInUse,
    VariantNotFound,
    VectorStoreNotFound,
)
from services.generation.tables import Prompt, Release, Variant
from shared import read_models
from shared.ids import new_id
from shared.prompt_format import PromptSpec
from shared.weights import are_there, lock_weights, user_of

_ADAPTERS = read_models.adapters
_CHECKPOINTS = read_models.checkpoints


def check_vector_store(session: Session, store_id: str) -> None:
    """Raise VectorStoreNotFound unless the project has it."""
    stores = read_models.vector_stores
    if session.scalar(sa.select(stores.c.id).where(stores.c.id == store_id)) is None:
        raise VectorStoreNotFound(
            f"There is no vector store {store_id!r} in this project.", param="retrieval.vector_store_id"
        )


def save_prompt(session: Session, project_id: str, name: str, spec: PromptSpec) -> Prompt:
    """The newest version of a prompt; content that a version already has is that version."""
    content = spec.model_dump(mode="json")
    known = sa.select(Prompt).where(Prompt.name == name, Prompt.digest == digest(content))
    found = session.scalars(known).one_or_none()
    if found is not None:
        return found
    # two writers of one name must not take the same version number
    session.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext(:key))"), {"key": f"prompt:{project_id}:{name}"})
    latest = session.scalar(sa.select(sa.func.max(Prompt.version)).where(Prompt.name == name)) or 0
    row = {"id": new_id("prompt_"), "project_id": project_id, "name": name, "version": latest + 1}
    row |= {"digest": digest(content), "spec": content}
    session.execute(insert(Prompt).values(row).on_conflict_do_nothing())
    return session.scalars(known).one()


def prompt(session: Session, prompt_id: str) -> Prompt:
    found = session.get(Prompt, prompt_id)
    if found is None:
        raise PromptNotFound(f"There is no prompt {prompt_id!r} in this project.", param="prompt")
    return found


def list_prompts(session: Session, *, name: str | None, after: str | None, limit: int) -> tuple[list[Prompt], bool]:
    query = sa.select(Prompt).order_by(Prompt.created_at.desc(), Prompt.id.desc()).limit(limit + 1)
    if name is not None:
        query = query.where(Prompt.name == name)
    if after is not None:
        last = prompt(session, after)
        query = query.where(sa.tuple_(Prompt.created_at, Prompt.id) < sa.tuple_(last.created_at, last.id))
    found = list(session.scalars(query))
    return found[:limit], len(found) > limit


def save_variant(session: Session, project_id: str, name: str, content: Mapping[str, Any]) -> Variant:
    """The variant of this content: {base_model, adapter_id, prompt_id, retrieval, sampling}; made if it is new."""
    fingerprint = digest(content)
    model_id = f"{_slug(name)}-{fingerprint[:8]}"
    row = {"id": new_id("var_"), "project_id": project_id, "model_id": model_id, "name": name, "digest": fingerprint}
    session.execute(insert(Variant).values(row | dict(content)).on_conflict_do_nothing())
    return session.scalars(sa.select(Variant).where(Variant.digest == fingerprint)).one()


def variant(session: Session, variant_id: str) -> Variant:
    found = session.get(Variant, variant_id)
    if found is None:
        raise VariantNotFound(f"There is no variant {variant_id!r} in this project.", param="variant")
    return found


def list_variants(session: Session, *, after: str | None, limit: int) -> tuple[list[Variant], bool]:
    query = sa.select(Variant).order_by(Variant.created_at.desc(), Variant.id.desc()).limit(limit + 1)
    if after is not None:
        last = variant(session, after)
        query = query.where(sa.tuple_(Variant.created_at, Variant.id) < sa.tuple_(last.created_at, last.id))
    found = list(session.scalars(query))
    return found[:limit], len(found) > limit


def variant_by_model(session: Session, model_id: str) -> Variant | None:
    return session.scalars(sa.select(Variant).where(Variant.model_id == model_id)).one_or_none()


def release_by_model(session: Session, model_id: str, *, lock: bool = False) -> Release | None:
    query = sa.select(Release).where(Release.model_id == model_id)
    return session.scalars(query.with_for_update() if lock else query).one_or_none()


def release(session: Session, release_id: str, *, lock: bool = False) -> Release:
    query = sa.select(Release).where(Release.id == release_id)
    found = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if found is None:
        raise ReleaseNotFound(f"There is no release {release_id!r} in this project.", param="release_id")
    return found


def releases(session: Session) -> list[Release]:
    return list(session.scalars(sa.select(Release).order_by(Release.created_at.desc(), Release.id)))


def all_variants(session: Session) -> list[Variant]:
    return list(session.scalars(sa.select(Variant).order_by(Variant.created_at.desc(), Variant.id)))


def adapters(session: Session) -> list[Any]:
    """Rows of training's adapters, newest first: id, model_id, base_model, created_at."""
    columns = (_ADAPTERS.c.id, _ADAPTERS.c.model_id, _ADAPTERS.c.base_model, _ADAPTERS.c.created_at)
    query = sa.select(*columns).where(are_there(_ADAPTERS.c.id))
    return list(session.execute(query.order_by(_ADAPTERS.c.created_at.desc(), _ADAPTERS.c.id)))


def adapter(session: Session, *, id: str | None = None, model_id: str | None = None) -> tuple[Adapter, str] | None:  # noqa: A002
    """An adapter with its base model's id."""
    columns = (_ADAPTERS.c.id, _ADAPTERS.c.model_id, _ADAPTERS.c.blob_key, _ADAPTERS.c.base_model)
    wanted = _ADAPTERS.c.id == id if id is not None else _ADAPTERS.c.model_id == model_id
    row = session.execute(sa.select(*columns).where(wanted, are_there(_ADAPTERS.c.id))).one_or_none()
    return None if row is None else (Adapter(row.id, row.model_id, row.blob_key), row.base_model)


def checkpoints(session: Session) -> list[Any]:
    """Rows of training's checkpoints, newest first: model_id, created_at."""
    columns = (_CHECKPOINTS.c.model_id, _CHECKPOINTS.c.created_at)
    order = (_CHECKPOINTS.c.created_at.desc(), _CHECKPOINTS.c.step.desc(), _CHECKPOINTS.c.id)
    return list(session.execute(sa.select(*columns).where(are_there(_CHECKPOINTS.c.id)).order_by(*order)))


def checkpoint(session: Session, model_id: str) -> tuple[Adapter, str] | None:
    """A checkpoint as the adapter that it is, with its base model's id."""
    columns = (_CHECKPOINTS.c.id, _CHECKPOINTS.c.model_id, _CHECKPOINTS.c.blob_key, _CHECKPOINTS.c.base_model)
    wanted = (_CHECKPOINTS.c.model_id == model_id, are_there(_CHECKPOINTS.c.id))
    row = session.execute(sa.select(*columns).where(*wanted)).one_or_none()
    return None if row is None else (Adapter(row.id, row.model_id, row.blob_key), row.base_model)


def delete_variant(session: Session, found: Variant) -> None:
    mentions = Release.history.op("@>")(sa.cast([{"variant_id": found.id}], JSONB))
    used = session.scalar(sa.select(Release.model_id).where(mentions).limit(1))
    if used is not None:
        raise VariantInUse(
            f"The release {used!r} points to {found.model_id!r} or could be rolled back to it; delete that first.",
            param="model",
        )
    session.delete(found)


def check_unused(session: Session, adapter: Adapter) -> None:
    """Raise AdapterInUse if anything needs the weights; whoever would need them next is held off."""
    lock_weights(session, adapter.id)
    user = user_of(session, adapter.id)
    if user is not None:
        raise AdapterInUse(f"{adapter.model_id!r} is needed by {user}; delete or cancel that first.", param="model")


def _slug(name: str) -> str:
    kept = "".join(letter if letter.isalnum() or letter in "._+-" else "-" for letter in name.lower())
    return kept.strip("-") or "variant"
