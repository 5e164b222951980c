"""What happens to a store between its creation and its end: files come and go, batches end, time runs out."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from services.retrieval import batches, repository
from services.retrieval.document_rows import free_documents
from services.retrieval.domain import ToAttach
from services.retrieval.errors import BatchEnded
from services.retrieval.repository import Attachment
from services.retrieval.settings import RetrievalSettings
from services.retrieval.tables import FileBatch, VectorStore
from shared import jobs, quotas
from shared.clock import now
from shared.ids import new_id
from shared.jobs import JobContext
from shared.messages import FreeVectorStore, IndexVectorStore
from shared.settings import Settings


def create_store(
    session: Session,
    project_id: str,
    *,
    name: str,
    description: str | None,
    file_ids: Sequence[str],
    metadata: dict[str, Any],
    chunking: dict[str, Any] | None,
    expires_days: int | None,
    settings: RetrievalSettings,
) -> VectorStore:
    """A store and, if it has files, the order to index them."""
    store = VectorStore(
        id=new_id("vs_"),
        project_id=project_id,
        name=name,
        description=description,
        embedder=settings.embedder,
        chunking=chunking or {"most": settings.passage_tokens, "overlap": settings.passage_overlap},
        metadata_=metadata,
        expires_days=expires_days,
        status="completed",
    )
    session.add(store)
    session.flush()
    if file_ids:
        attach_files(session, store, [ToAttach(file_id, {}) for file_id in dict.fromkeys(file_ids)], settings)
    session.refresh(store)
    watch_expiry(session, store)
    return store


def attach_files(session: Session, store: VectorStore, files: Sequence[ToAttach], settings: Settings) -> str:
    """Add files to a locked store and order their indexing; answers the job's id. Raises QuotaExceeded.

    How long their passages will be nobody knows yet: about as long as the files.
    """
    sources = repository.source_files(session, files)
    expected = sum(source.bytes for source in sources.values())
    quotas.claim_storage(session, store.project_id, expected, settings, param=files[0].param)
    job_id = new_id("job_")
    attachments = [Attachment(sources[one.file_id], one.attributes, one.chunking) for one in files]
    repository.attach(session, store, attachments, job_id=job_id)
    store.status = "in_progress"
    command = IndexVectorStore(vector_store_id=store.id)
    jobs.send(session, store.project_id, command, job_id=job_id, subject_id=store.id)
    return job_id


def attach_batch(session: Session, store: VectorStore, files: Sequence[ToAttach], settings: Settings) -> FileBatch:
    """Attach files under one name, by which they are watched and cancelled together."""
    job_id = attach_files(session, store, files, settings)
    return batches.add_batch(session, store, [one.file_id for one in files], job_id=job_id)


def fresh_store(session: Session, store_id: str) -> VectorStore:
    """The store with its true state, also when a job that indexed it died."""
    return freshen(session, repository.get_store(session, store_id))


def freshen(session: Session, store: VectorStore) -> VectorStore:
    """Settle what jobs that ended left waiting in the store."""
    if store.status == "in_progress" and repository.orphans(session, store.id):
        repository.get_store(session, store.id, lock=True)
        # looked up again under the lock: what was attached anew in the meantime is waited for
        if orphaned := repository.orphans(session, store.id):
            repository.settle_files(session, store.id, orphaned)
        after_change(session, store.id)
        session.refresh(store)
    return store


def fresh_batch(session: Session, store_id: str, batch_id: str) -> tuple[FileBatch, dict[str, int]]:
    """The batch with its file counts: frozen when it is over, as they are while it is not."""
    fresh_store(session, store_id)
    batch = batches.get_batch(session, store_id, batch_id)
    counts = batch.file_counts or repository.batch_counts(session, batch_id)
    if batch.status == "in_progress" and not counts["in_progress"]:
        batches.end_batches(session, store_id)
        session.refresh(batch)  # somebody else may have ended it at the same moment
    return batch, batch.file_counts or counts


def cancel_batch(session: Session, store_id: str, batch_id: str) -> tuple[FileBatch, dict[str, int]]:
    """What is indexed stays; what is not becomes cancelled. Raises BatchEnded when nothing is left to cancel."""
    batch, _ = fresh_batch(session, store_id, batch_id)
    _refuse_ended(batch)
    jobs.cancel(session, batch.job_id)
    repository.get_store(session, store_id, lock=True)
    _refuse_ended(batches.get_batch(session, store_id, batch_id, lock=True))
    repository.cancel_waiting(session, store_id, batch.job_id)
    counts = repository.batch_counts(session, batch_id)
    batch.status, batch.file_counts = "cancelled", counts
    session.flush()
    after_change(session, store_id)
    return batch, counts


def _refuse_ended(batch: FileBatch) -> None:
    if batch.status != "in_progress":
        raise BatchEnded(f"Batch {batch.id} is already {batch.status}, so it cannot be cancelled.", param="batch_id")


def detach_file(session: Session, store_id: str, file_id: str) -> None:
    """Take a file and its passages out of the store."""
    repository.get_store(session, store_id, lock=True)
    session.delete(repository.get_file(session, store_id, file_id))
    session.flush()
    after_change(session, store_id)


def update_store(session: Session, store_id: str, changes: dict[str, Any]) -> VectorStore:
    """Set columns of a store; a new expiry counts from its last use, and cannot wake a store that expired."""
    store = repository.get_store(session, store_id, lock=True)
    if "expires_days" in changes:
        repository.refuse_expired(store)
    for column, value in changes.items():
        setattr(store, column, value)
    session.flush()
    watch_expiry(session, store)
    return store


def delete_store(session: Session, store_id: str) -> None:
    """Delete a store with its passages, and cancel what is still ordered for it; the files themselves stay."""
    repository.get_store(session, store_id)
    for job_id in repository.open_jobs(session, store_id):
        jobs.cancel(session, job_id)
    session.delete(repository.get_store(session, store_id, lock=True))


def after_change(session: Session, store_id: str) -> None:
    """Say how the store and its batches stand after files changed their state."""
    repository.update_status(session, store_id)
    batches.end_batches(session, store_id)


def watch_expiry(session: Session, store: VectorStore) -> None:
    """Order a look at the store for the moment when it expires; equal moments are looked at once."""
    due = store.expires_at
    if due is not None:
        key = f"expiry:{store.id}:{due.timestamp()}"
        command = FreeVectorStore(vector_store_id=store.id)
        jobs.send(session, store.project_id, command, subject_id=store.id, dedupe_key=key, run_after=due)


def free_vector_store(context: JobContext, order: FreeVectorStore) -> None:
    """The job that waits for a store's expiry: used since, it is watched on; expired, its passages go."""
    with context.transaction() as session:
        indexing = repository.open_jobs(session, order.vector_store_id, IndexVectorStore.kind)
        store = repository.get_store(session, order.vector_store_id, lock=True)
        expired = store.is_expired(now())
        if expired:
            for job_id in indexing:
                jobs.cancel(session, job_id)
            repository.cancel_waiting(session, store.id)
            free_documents(session, store.id)
            batches.end_batches(session, store.id)
            store.status = "expired"
        else:
            watch_expiry(session, store)
        context.succeed(session, {"vector_store_id": store.id, "expired": expired})
