"""Batches of files: how they are attached together, how they end, how they are cancelled."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.retrieval import repository
from services.retrieval.domain import batch_status
from services.retrieval.errors import BatchNotFound
from services.retrieval.tables import FileBatch, FileOfBatch, VectorStore
from shared.ids import new_id
from shared.jobs import Job


def add_batch(session: Session, store: VectorStore, file_ids: Sequence[str], *, job_id: str) -> FileBatch:
    """Name the files that this job indexes together; they are attached already."""
    batch = FileBatch(id=new_id("vsfb_"), project_id=store.project_id, vector_store_id=store.id, job_id=job_id)
    session.add(batch)
    session.flush()
    session.refresh(batch)
    whose = {"batch_id": batch.id, "vector_store_id": store.id, "project_id": store.project_id}
    session.execute(sa.insert(FileOfBatch), [{**whose, "file_id": file_id} for file_id in file_ids])
    return batch


def get_batch(session: Session, store_id: str, batch_id: str, *, lock: bool = False) -> FileBatch:
    query = sa.select(FileBatch).where(FileBatch.id == batch_id, FileBatch.vector_store_id == store_id)
    found = session.scalars(repository.locked(query) if lock else query).one_or_none()
    if found is None:
        raise BatchNotFound(f"There is no batch {batch_id!r} in vector store {store_id!r}.", param="batch_id")
    return found


def end_batches(session: Session, store_id: str) -> None:
    """Close the store's batches of which no file waits any more, with what became of their files."""
    running = sa.select(FileBatch, Job.status).outerjoin(Job, Job.id == FileBatch.job_id)
    running = running.where(FileBatch.vector_store_id == store_id, FileBatch.status == "in_progress")
    running = running.order_by(FileBatch.id).with_for_update(of=FileBatch, key_share=True)
    for batch, job_status in session.execute(running).all():
        counts = repository.batch_counts(session, batch.id)
        batch.status = batch_status(counts, job_status)
        batch.file_counts = None if batch.status == "in_progress" else counts
    session.flush()
