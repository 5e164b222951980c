"""Every query of the training service."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.training.adapters.tables import AdapterImport
from services.training.domain import Example, kept_checkpoints
from services.training.errors import (
    AdapterNotFound,
    CorpusNotFound,
    CorpusNotReady,
    DatasetNotFound,
    DatasetNotReady,
    NoTrainingExamples,
    TrainingFileNotFound,
    TrainingJobNotFound,
    WrongFilePurpose,
)
from services.training.tables import AdapterRow, CheckpointRow, TrainingJob
from shared import read_models as others
from shared.errors import InvalidInput
from shared.files import UNDELETED, File, alive
from shared.jobs.tables import Job, JobEvent
from shared.storage import Blob
from shared.weights import are_there, lock_weights, user_of

_PURPOSE = "fine-tune"
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
        last = find_job(session, after)
        if last is None:
            raise InvalidInput(f"{after!r} is not a fine-tuning job of this project.", param="after")
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


def training_file(session: Session, file_id: str, *, param: str) -> File:
    """An uploaded file that can be trained on; errors name the job's field `param`."""
    found = session.scalars(sa.select(File).where(File.id == file_id, alive())).one_or_none()
    if found is None:
        raise TrainingFileNotFound(f"There is no file {file_id!r} in this project.", param=param)
    if found.purpose != _PURPOSE:
        raise WrongFilePurpose(
            f"{file_id} has the purpose {found.purpose!r}; upload the file with the purpose {_PURPOSE!r}.", param=param
        )
    if found.bytes == 0:
        raise NoTrainingExamples(f"{file_id} ({found.filename}) is empty.", param=param)
    return found


def is_vector_store(source: str) -> bool:
    """Whether the id that a job names as its data is a vector store's, whose documents are meant."""
    return source.startswith("vs_")


def check_vector_store(session: Session, store_id: str, *, param: str) -> None:
    """CorpusNotFound or CorpusNotReady unless the store's documents can be trained on."""
    table = others.vector_stores
    status = session.execute(sa.select(table.c.status).where(table.c.id == store_id)).scalar_one_or_none()
    if status is None:
        raise CorpusNotFound(f"There is no vector store {store_id!r} in this project.", param=param)
    if status != "completed":
        raise CorpusNotReady(f"The vector store {store_id} is {status}; wait until it is completed.", param=param)


def store_files(session: Session, store_id: str, *, param: str) -> list[tuple[str, str, int]]:
    """(name, blob key, bytes) of the store's indexed files that are still there, in the order of their names.

    None of them can be deleted until the transaction ends.
    """
    check_vector_store(session, store_id, param=param)
    table = others.documents
    ids = sa.select(table.c.file_id).where(table.c.vector_store_id == store_id)
    query = sa.select(File.filename, File.blob_key, File.bytes).where(File.id.in_(ids), alive())
    query = query.with_for_update(**UNDELETED).order_by(File.filename, File.id)
    return [(name, key, size) for name, key, size in session.execute(query)]


def adapter(session: Session, adapter_id: str) -> AdapterRow:
    """An adapter by its id or its model id; AdapterNotFound."""
    query = sa.select(AdapterRow).where(sa.or_(AdapterRow.id == adapter_id, AdapterRow.model_id == adapter_id))
    found = session.scalars(query.where(are_there(AdapterRow.id))).one_or_none()
    if found is None:
        raise AdapterNotFound(f"There is no adapter {adapter_id!r} in this project.", param="init_adapter")
    return found


def find_start(session: Session, model_id: str) -> AdapterRow | CheckpointRow | None:
    """The fine-tuned model or checkpoint of that model id, whose weights a job can go on from."""
    adapters = sa.select(AdapterRow).where(AdapterRow.model_id == model_id, are_there(AdapterRow.id))
    checkpoints = sa.select(CheckpointRow).where(CheckpointRow.model_id == model_id, are_there(CheckpointRow.id))
    return session.scalars(adapters).one_or_none() or session.scalars(checkpoints).one_or_none()


def hold_start(session: Session, start_id: str) -> None:
    """Nobody deletes these weights until a row says that a job goes on from them; AdapterNotFound if they are gone."""
    lock_weights(session, start_id)
    checkpoints = sa.select(CheckpointRow.id).where(CheckpointRow.id == start_id, are_there(CheckpointRow.id))
    if session.scalar(checkpoints) is None:
        adapter(session, start_id)


def start_weights(session: Session, start_id: str) -> str:
    """The blob of an adapter or checkpoint to go on from, by its id; AdapterNotFound once it is gone."""
    checkpoint = session.get(CheckpointRow, start_id)
    return adapter(session, start_id).blob_key if checkpoint is None else checkpoint.blob_key


def tune_of(session: Session, start_id: str) -> str:
    """What the run tuned that made an adapter or checkpoint; uploaded adapters are adapters."""
    checkpoint = session.get(CheckpointRow, start_id)
    if checkpoint is None:
        return str(adapter(session, start_id).recipe.get("tune", "lora"))
    return str(session.get_one(TrainingJob, checkpoint.job_id).recipe.get("tune", "lora"))


def delete_weights(session: Session, weights_id: str) -> list[str]:
    """Delete an adapter or a checkpoint by its id, and the upload it came from; answers its blob key.

    Nothing where there are no weights: they are gone already, or the upload did not become any.
    """
    found = session.get(AdapterRow, weights_id) or session.get(CheckpointRow, weights_id)
    session.execute(sa.delete(AdapterImport).where(AdapterImport.id == weights_id))
    if found is None:
        return []
    session.delete(found)
    return [found.blob_key]


def add_event(
    session: Session, project_id: str, job_id: str, message: str, *, level: str = "info", data: Any = None
) -> None:
    """Say something of a job in the caller's transaction."""
    session.add(JobEvent(project_id=project_id, job_id=job_id, level=level, type="message", message=message, data=data))


def recorded_step(session: Session, job_id: str) -> int:
    """The last step whose metrics are recorded; steps are recorded in order."""
    return session.scalar(sa.select(sa.func.max(JobEvent.step)).where(*_metrics_of(job_id))) or 0


def metrics(session: Session, job_id: str) -> Iterator[dict[str, Any]]:
    """What every recorded step measured, in order."""
    query = sa.select(JobEvent.data).where(*_metrics_of(job_id)).order_by(JobEvent.step)
    for data in session.scalars(query.execution_options(yield_per=_ROWS_AT_ONCE)):
        yield data or {}


def keep_state(session: Session, job_id: str, step: int, blob: Blob) -> list[str]:
    """Let an interrupted run go on from this state; answers the blob keys of the one before."""
    job = session.get_one(TrainingJob, job_id)
    old = job.resume_blob_key
    job.resume_step, job.resume_blob_key, job.resume_bytes = step, blob.key, blob.size
    session.flush()
    return [old] if old is not None else []


def has_checkpoint(session: Session, job_id: str, step: int) -> bool:
    wanted = sa.exists().where(CheckpointRow.job_id == job_id, CheckpointRow.step == step)
    return bool(session.scalar(sa.select(wanted)))


def record_checkpoint(session: Session, row: CheckpointRow) -> list[str]:
    """Add a checkpoint and drop those beside the last three and the best that nothing goes on from; answers their blob
    keys."""
    session.add(row)
    session.flush()
    query = sa.select(CheckpointRow).where(CheckpointRow.job_id == row.job_id).order_by(CheckpointRow.step.desc())
    found = session.scalars(query).all()
    kept = kept_checkpoints({checkpoint.step: checkpoint.metrics.get("valid_loss") for checkpoint in found})
    dropped = []
    for checkpoint in (checkpoint for checkpoint in found if checkpoint.step not in kept):
        lock_weights(session, checkpoint.id)
        if user_of(session, checkpoint.id) is None:
            session.delete(checkpoint)
            dropped.append(checkpoint.blob_key)
    session.flush()
    return dropped


def list_checkpoints(
    session: Session, job_id: str, *, after: str | None, limit: int
) -> tuple[list[CheckpointRow], bool]:
    """Newest first; the flag says whether more follow."""
    query = sa.select(CheckpointRow).where(CheckpointRow.job_id == job_id).order_by(CheckpointRow.step.desc())
    if after is not None:
        last = session.get(CheckpointRow, after)
        if last is None or last.job_id != job_id:
            raise InvalidInput(f"{after!r} is not a checkpoint of this job.", param="after")
        query = query.where(CheckpointRow.step < last.step)
    found = list(session.scalars(query.limit(limit + 1)))
    return found[:limit], len(found) > limit


def _metrics_of(job_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (JobEvent.job_id == job_id, JobEvent.type == "metrics", JobEvent.step.is_not(None))
