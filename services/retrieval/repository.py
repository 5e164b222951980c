"""Queries of stores and their files. Whoever locks takes the job first, then the store, then files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from services.retrieval.domain import ToAttach, is_stale
from services.retrieval.errors import (
    CursorNotFound,
    FileNotFound,
    StoreExpired,
    VectorStoreFileNotFound,
    VectorStoreNotFound,
)
from services.retrieval.listing import Place, Window, rows_in
from services.retrieval.tables import FileOfBatch, VectorStore, VectorStoreFile
from shared import read_models
from shared.clock import now
from shared.files import File, alive
from shared.jobs import TERMINAL, Job

Query = TypeVar("Query", bound=sa.Select[Any])
_NO_FILES = {"in_progress": 0, "completed": 0, "failed": 0, "cancelled": 0, "total": 0}


@dataclass(frozen=True)
class SourceFile:
    """An uploaded file as retrieval reads it."""

    id: str
    filename: str
    blob_key: str
    bytes: int


@dataclass(frozen=True)
class Attachment:
    """A file on its way into a store, with its own sizes of passages or the store's (None)."""

    file: SourceFile
    attributes: dict[str, Any]
    chunking: dict[str, Any] | None = None


def get_store(session: Session, store_id: str, *, lock: bool = False) -> VectorStore:
    query = sa.select(VectorStore).where(VectorStore.id == store_id)
    found = session.scalars(locked(query) if lock else query).one_or_none()
    if found is None:
        raise VectorStoreNotFound(f"There is no vector store {store_id!r} in this project.", param="vector_store_id")
    return found


def locked(query: Query) -> Query:
    """The rows as they are once nobody else changes them, whatever the session has read before."""
    return query.with_for_update(key_share=True).execution_options(populate_existing=True)


def usable_store(session: Session, store_id: str, *, lock: bool = False) -> VectorStore:
    """The store, marked as used now; StoreExpired when its time is over."""
    store = get_store(session, store_id, lock=lock)
    refuse_expired(store)
    if is_stale(store.last_active_at, now()):
        _mark_used(session, store_id)
    return store


def refuse_expired(store: VectorStore) -> None:
    if store.is_expired(now()):
        raise StoreExpired(
            f"Vector store {store.id!r} has expired: it was last used at {store.last_active_at:%Y-%m-%d %H:%M} UTC. "
            "Create a new one of its files.",
            param="vector_store_id",
        )


def _mark_used(session: Session, store_id: str) -> None:
    """Nobody waits to write this: who holds the row is using the store too."""
    free = sa.select(VectorStore.id).where(VectorStore.id == store_id)
    free = free.with_for_update(key_share=True, skip_locked=True)
    session.execute(
        sa.update(VectorStore).where(VectorStore.id == free.scalar_subquery()).values(last_active_at=sa.func.now())
    )


def list_stores(session: Session, window: Window) -> tuple[list[VectorStore], bool]:
    def place_of(store_id: str, param: str) -> Place:
        found = session.get(VectorStore, store_id)
        if found is None:
            raise CursorNotFound(f"There is no vector store {store_id!r} to list from.", param=param)
        return found.created_at, found.id

    return rows_in(session, sa.select(VectorStore), (VectorStore.created_at, VectorStore.id), window, place_of)


def source_files(session: Session, files: Sequence[ToAttach]) -> dict[str, SourceFile]:
    """The project's files by id; FileNotFound names the first that is missing, and the field that names it."""
    found = existing_files(session, [one.file_id for one in files])
    for one in files:
        if one.file_id not in found:
            raise FileNotFound(f"There is no file {one.file_id!r} in this project.", param=one.param)
    return found


def existing_files(session: Session, file_ids: Sequence[str]) -> dict[str, SourceFile]:
    """Those of the files that the project has; a file past its expiry is gone."""
    columns = (File.id, File.filename, File.blob_key, File.bytes)
    rows = session.execute(sa.select(*columns).where(File.id.in_(file_ids), alive()))
    return {row.id: SourceFile(**row._mapping) for row in rows}


def attach(session: Session, store: VectorStore, attachments: Sequence[Attachment], *, job_id: str) -> None:
    """Let files wait to be indexed by this job; one that is attached already starts anew."""
    rows = [
        {
            "vector_store_id": store.id,
            "file_id": one.file.id,
            "project_id": store.project_id,
            "filename": one.file.filename,
            "attributes": one.attributes,
            "chunking": one.chunking,
            "job_id": job_id,
            "status": "in_progress",
        }
        for one in attachments
    ]
    adding = insert(VectorStoreFile)
    anew = {name: adding.excluded[name] for name in ("attributes", "chunking", "job_id", "status")}
    adding = adding.on_conflict_do_update(
        index_elements=["vector_store_id", "file_id"], set_=anew | {"last_error": None}
    )
    session.execute(adding, rows)


def get_file(session: Session, store_id: str, file_id: str, *, lock: bool = False) -> VectorStoreFile:
    of_store = (VectorStoreFile.vector_store_id == store_id, VectorStoreFile.file_id == file_id)
    query = sa.select(VectorStoreFile).where(*of_store)
    found = session.scalars(locked(query) if lock else query).one_or_none()
    if found is None:
        raise VectorStoreFileNotFound(f"File {file_id!r} is not in vector store {store_id!r}.", param="file_id")
    return found


def list_files(
    session: Session, store_id: str, window: Window, *, status: str | None = None, batch_id: str | None = None
) -> tuple[list[VectorStoreFile], bool]:
    """The files of a store, or those of one of its batches."""

    def place_of(file_id: str, param: str) -> Place:
        found = session.get(VectorStoreFile, (store_id, file_id))
        if found is None:
            raise CursorNotFound(f"There is no file {file_id!r} to list from.", param=param)
        return found.created_at, found.file_id

    query = sa.select(VectorStoreFile).where(VectorStoreFile.vector_store_id == store_id)
    if status is not None:
        query = query.where(VectorStoreFile.status == status)
    if batch_id is not None:
        members = sa.select(FileOfBatch.file_id).where(FileOfBatch.batch_id == batch_id)
        query = query.where(VectorStoreFile.file_id.in_(members))
    place = (VectorStoreFile.created_at, VectorStoreFile.file_id)
    return rows_in(session, query, place, window, place_of)


def file_counts(session: Session, store_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """OpenAI's file_counts and usage_bytes per store."""
    of_store = VectorStoreFile.vector_store_id
    counted = sa.select(
        of_store.label("of"),
        VectorStoreFile.status,
        sa.func.count().label("files"),
        sa.func.sum(VectorStoreFile.usage_bytes).label("bytes"),
    )
    counted = counted.where(of_store.in_(store_ids)).group_by(of_store, VectorStoreFile.status)
    found = {store_id: {**_NO_FILES, "usage_bytes": 0} for store_id in store_ids}
    for row in session.execute(counted):
        counts = found[row.of]
        counts[row.status] += row.files
        counts["total"] += row.files
        counts["usage_bytes"] += int(row.bytes or 0)
    return found


def batch_counts(session: Session, batch_id: str) -> dict[str, int]:
    """OpenAI's file_counts of a batch, as its files are now."""
    counted = (
        sa.select(VectorStoreFile.status, sa.func.count().label("files"))
        .join(
            FileOfBatch,
            sa.and_(
                FileOfBatch.vector_store_id == VectorStoreFile.vector_store_id,
                FileOfBatch.file_id == VectorStoreFile.file_id,
            ),
        )
        .where(FileOfBatch.batch_id == batch_id)
        .group_by(VectorStoreFile.status)
    )
    counts = {row.status: row.files for row in session.execute(counted)}
    return {**_NO_FILES, **counts, "total": sum(counts.values())}


def fail_file(session: Session, store_id: str, file_id: str, *, code: str, message: str) -> None:
    """Record why a file could not be indexed."""
    session.execute(
        sa.update(VectorStoreFile)
        .where(VectorStoreFile.vector_store_id == store_id, VectorStoreFile.file_id == file_id)
        .values(status="failed", usage_bytes=0, last_error={"code": code, "message": message})
    )


def waiting_files(
    session: Session, store_id: str, job_id: str, *, lock: Sequence[str] = ()
) -> dict[str, dict[str, Any] | None]:
    """The files that this job has still to index, with their own chunking: what a resumed job goes on with.

    With `lock`, only those of these files; nobody detaches them, attaches them anew or cancels them before the
    transaction ends.
    """
    query = sa.select(VectorStoreFile.file_id, VectorStoreFile.chunking).where(_waits_for(store_id, job_id))
    query = query.order_by(VectorStoreFile.created_at, VectorStoreFile.file_id)
    if lock:
        query = query.where(VectorStoreFile.file_id.in_(lock)).with_for_update()
    return {row.file_id: row.chunking for row in session.execute(query)}


def files_of_job(session: Session, store_id: str, job_id: str) -> int:
    """How many files it was ordered to index, those done included."""
    of_job = (VectorStoreFile.vector_store_id == store_id, VectorStoreFile.job_id == job_id)
    return session.scalar(sa.select(sa.func.count()).select_from(VectorStoreFile).where(*of_job)) or 0


def cancel_waiting(session: Session, store_id: str, job_id: str | None = None) -> None:
    """Files that wait, for this job or for any, are cancelled: their job finds them no more."""
    waiting = (VectorStoreFile.vector_store_id == store_id, VectorStoreFile.status == "in_progress")
    which = waiting if job_id is None else (_waits_for(store_id, job_id),)
    session.execute(sa.update(VectorStoreFile).where(*which).values(status="cancelled"))


def orphans(session: Session, store_id: str) -> list[Any]:
    """(file_id, job_status, job_error) of files whose job has ended without them."""
    query = (
        sa.select(VectorStoreFile.file_id, Job.status.label("job_status"), Job.error.label("job_error"))
        .outerjoin(Job, Job.id == VectorStoreFile.job_id)
        .where(VectorStoreFile.vector_store_id == store_id, VectorStoreFile.status == "in_progress")
        .where(sa.or_(Job.id.is_(None), Job.status.in_(TERMINAL)))
    )
    return list(session.execute(query))


def settle_files(session: Session, store_id: str, orphaned: Sequence[Any]) -> None:
    """Write down what became of them: cancelled with their job, or failed with its reason."""
    rows = []
    for one in orphaned:
        reason = (one.job_error or {}).get("message", "The job that indexes it has ended.")
        error = {"code": "server_error", "message": f"{reason} Attach the file again to index it."}
        cancelled = one.job_status == "cancelled"
        state = {"status": "cancelled", "last_error": None} if cancelled else {"status": "failed", "last_error": error}
        rows.append({"vector_store_id": store_id, "file_id": one.file_id, **state})
    session.execute(sa.update(VectorStoreFile), rows)


def update_status(session: Session, store_id: str) -> None:
    """A store is complete when none of its files waits; an expired one stays so."""
    waiting = sa.select(VectorStoreFile.file_id).where(
        VectorStoreFile.vector_store_id == store_id, VectorStoreFile.status == "in_progress"
    )
    status = sa.case((sa.exists(waiting), "in_progress"), else_="completed")
    alive = (VectorStore.id == store_id, VectorStore.status != "expired")
    session.execute(sa.update(VectorStore).where(*alive).values(status=status))


def open_jobs(session: Session, store_id: str, kind: str | None = None) -> list[str]:
    """The store's jobs (of a kind) that have not ended, locked, so that they can be cancelled."""
    query = sa.select(Job.id).where(Job.subject_id == store_id, Job.status.not_in(TERMINAL))
    if kind is not None:
        query = query.where(Job.kind == kind)
    return list(session.scalars(query.order_by(Job.id).with_for_update(key_share=True)))


def answers_in_words(session: Session, model: str) -> bool:
    """Whether the project has a chat model of this id: an adapter, a checkpoint, a variant or a release."""
    tables = (read_models.adapters, read_models.checkpoints, read_models.variants, read_models.releases)
    having = [sa.select(sa.literal(1)).where(table.c.model_id == model) for table in tables]
    return session.scalar(sa.union_all(*having).limit(1)) is not None


def _waits_for(store_id: str, job_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        VectorStoreFile.vector_store_id == store_id,
        VectorStoreFile.job_id == job_id,
        VectorStoreFile.status == "in_progress",
    )
