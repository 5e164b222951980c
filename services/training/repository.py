"""Every query of the training service."""

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from services.training.domain import Example
from services.training.errors import (
    AdapterNotFound,
    DatasetNotFound,
    DatasetNotReady,
    TrainingFileNotFound,
    TrainingJobNotFound,
)
from services.training.tables import AdapterRow, CheckpointRow, TrainingJob
from shared import read_models as others
from shared.jobs.tables import Job

_PROJECTS = sa.table("projects", sa.column("id", sa.Text()), sa.column("name", sa.Text()))
_ROWS_AT_ONCE = 500


def get_job(session: Session, job_id: str) -> tuple[TrainingJob, Job]:
    """A training job with its state; TrainingJobNotFound for any other id."""
    query = sa.select(TrainingJob, Job).join(Job, Job.id == TrainingJob.id).where(TrainingJob.id == job_id)
    found = session.execute(query).one_or_none()
    if found is None:
        raise TrainingJobNotFound(
            f"There is no fine-tuning job {job_id!r} in this project.", param="fine_tuning_job_id"
        )
    return found[0], found[1]


def find_job(session: Session, job_id: str) -> TrainingJob | None:
    return session.get(TrainingJob, job_id)


def list_jobs(
    session: Session, *, after: str | None, limit: int, metadata: dict[str, str]
) -> tuple[list[tuple[TrainingJob, Job]], bool]:
    """Newest first after the job `after`, those that carry all of `metadata`; the flag says whether more follow."""
    order = (TrainingJob.created_at, TrainingJob.id)
    query = sa.select(TrainingJob, Job).join(Job, Job.id == TrainingJob.id).limit(limit + 1)
    query = query.order_by(*(column.desc() for column in order))
    if metadata:
        query = query.where(TrainingJob.metadata_.contains(metadata))
    if after is not None:
        last, _ = get_job(session, after)
        query = query.where(sa.tuple_(*order) < sa.tuple_(last.created_at, last.id))
    found = [(row[0], row[1]) for row in session.execute(query)]
    return found[:limit], len(found) > limit


def add(session: Session, row: TrainingJob | AdapterRow) -> None:
    session.add(row)
    session.flush()


def project_name(session: Session, project_id: str) -> str:
    name: str = session.execute(sa.select(_PROJECTS.c.name).where(_PROJECTS.c.id == project_id)).scalar_one()
    return name


def check_dataset(session: Session, dataset_id: str) -> None:
    """DatasetNotFound or DatasetNotReady unless the dataset can be trained on."""
    table = others.datasets
    status = session.execute(sa.select(table.c.status).where(table.c.id == dataset_id)).scalar_one_or_none()
    if status is None:
        raise DatasetNotFound(f"There is no dataset {dataset_id!r} in this project.", param="dataset")
    if status != "ready":
        raise DatasetNotReady(f"Dataset {dataset_id} is {status}; wait until it is ready.", param="dataset")


def examples(session: Session, dataset_id: str, split: str) -> Iterator[Example]:
    """The split's examples in their frozen order, streamed."""
    table = others.examples
    columns = (table.c.messages, table.c.answer, table.c.passages)
    query = sa.select(*columns).where(table.c.dataset_id == dataset_id, table.c.split == split)
    rows = session.execute(query.order_by(table.c.position).execution_options(yield_per=_ROWS_AT_ONCE))
    for messages, answer, passages in rows:
        yield Example(tuple(messages), answer, tuple(passages or ()))


def file_blob(session: Session, file_id: str, *, param: str) -> tuple[str, str]:
    """Blob key and name of an uploaded file; TrainingFileNotFound."""
    table = others.files
    found = session.execute(sa.select(table.c.blob_key, table.c.filename).where(table.c.id == file_id)).one_or_none()
    if found is None:
        raise TrainingFileNotFound(f"There is no file {file_id!r} in this project.", param=param)
    return found.blob_key, found.filename


def adapter(session: Session, adapter_id: str) -> AdapterRow:
    """An adapter by its id or its model id; AdapterNotFound."""
    query = sa.select(AdapterRow).where(sa.or_(AdapterRow.id == adapter_id, AdapterRow.model_id == adapter_id))
    found = session.scalars(query).one_or_none()
    if found is None:
        raise AdapterNotFound(f"There is no adapter {adapter_id!r} in this project.", param="init_adapter")
    return found


def find_adapter(session: Session, model_id: str) -> AdapterRow | None:
    return session.scalars(sa.select(AdapterRow).where(AdapterRow.model_id == model_id)).one_or_none()


def record_checkpoint(session: Session, row: CheckpointRow) -> list[str]:
    """Keep this checkpoint's blob and forget those of older ones; answers the blob keys to delete.

    A step that was recorded before a crash is recorded once.
    """
    values = {column: getattr(row, column) for column in ("id", "project_id", "job_id", "step", "metrics", "blob_key")}
    session.execute(insert(CheckpointRow).values(values).on_conflict_do_nothing(index_elements=["job_id", "step"]))
    return _forget_blobs(session, row.job_id, CheckpointRow.step < row.step)


def forget_checkpoint_blobs(session: Session, job_id: str) -> list[str]:
    """All of the job's checkpoint blobs can go; the rows stay as history."""
    return _forget_blobs(session, job_id, sa.true())


def newest_checkpoint(session: Session, job_id: str) -> CheckpointRow | None:
    """The newest one that still has its blob."""
    kept = sa.select(CheckpointRow).where(CheckpointRow.job_id == job_id, CheckpointRow.blob_key.is_not(None))
    return session.scalars(kept.order_by(CheckpointRow.step.desc()).limit(1)).one_or_none()


def list_checkpoints(
    session: Session, job_id: str, *, after: str | None, limit: int
) -> tuple[list[CheckpointRow], bool]:
    """Newest first; the flag says whether more follow."""
    query = sa.select(CheckpointRow).where(CheckpointRow.job_id == job_id).order_by(CheckpointRow.step.desc())
    if after is not None:
        last = sa.select(CheckpointRow.step).where(CheckpointRow.id == after).scalar_subquery()
        query = query.where(CheckpointRow.step < last)
    found = list(session.scalars(query.limit(limit + 1)))
    return found[:limit], len(found) > limit


def _forget_blobs(session: Session, job_id: str, which: sa.ColumnElement[bool]) -> list[str]:
    of_job = sa.select(CheckpointRow.blob_key).where(
        CheckpointRow.job_id == job_id, CheckpointRow.blob_key.is_not(None), which
    )
    keys = [key for key in session.scalars(of_job) if key is not None]
    gone = sa.update(CheckpointRow).where(CheckpointRow.job_id == job_id, which).values(blob_key=None)
    session.execute(gone.execution_options(synchronize_session=False))
    return keys
