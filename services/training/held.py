"""What an unfinished training job, search or import holds in storage: the bytes of its files, the state to go on from.

A file may be deleted or expire while a job waits, pauses or is tried again. The order named it, so the job reads it.
"""

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from services.training.repository import is_vector_store, store_files
from services.training.tables import HeldFile, TrainingJob
from shared.files import File, get_file, hold_file


def hold_files(session: Session, project_id: str, owner_id: str, named: Mapping[str, str | None]) -> None:
    """Hold the files that an order names, by its fields; what a vector store has is held by `hold_stores`."""
    for param, file_id in named.items():
        if file_id is not None and not is_vector_store(file_id):
            file = hold_file(session, file_id, param=param)
            session.add(_row(owner_id, project_id, param, file))
    session.flush()


def hold_stores(session: Session, job: TrainingJob) -> None:
    """Hold the files that the job's vector stores have at its first attempt.

    Every attempt reads these: a store goes on living, and other rows would be another run.
    """
    for param, source in (("training_file", job.training_file), ("validation_file", job.validation_file)):
        if source is None or not is_vector_store(source) or _held(session, job.id, param):
            continue
        for position, (filename, blob_key, size) in enumerate(store_files(session, source, param=param)):
            row = HeldFile(owner_id=job.id, project_id=job.project_id, param=param, position=position)
            row.filename, row.blob_key, row.bytes = filename, blob_key, size
            session.add(row)
    session.flush()


def share(session: Session, owner_id: str, other_id: str) -> None:
    """Let another hold what `owner_id` holds."""
    names = ("project_id", "param", "position", "filename", "blob_key", "bytes")
    columns = [getattr(HeldFile, name) for name in names]
    held = sa.select(sa.literal(other_id), *columns).where(HeldFile.owner_id == owner_id)
    session.execute(insert(HeldFile).from_select(["owner_id", *names], held))


def held_file(session: Session, owner_id: str, file_id: str, param: str) -> HeldFile:
    """The file `file_id` that the field `param` of the owner's order names; FileMissing once it is gone."""
    found = _held(session, owner_id, param)
    if found:
        return found[0]
    # ordered by a server that did not hold files yet, as while an upgrade rolls through
    file = get_file(session, file_id, param=param)
    return _row(owner_id, file.project_id, param, file)


def held_documents(session: Session, job: TrainingJob, param: str) -> list[HeldFile]:
    """The files of the vector store that this field of the job names, in the order of their names."""
    return _held(session, job.id, param)


def let_go(session: Session, owner_id: str) -> list[str]:
    """Nothing is read or gone on from any more; answers the keys of what was held."""
    dropped = sa.delete(HeldFile).where(HeldFile.owner_id == owner_id).returning(HeldFile.blob_key)
    keys = list(session.scalars(dropped))
    job = session.get(TrainingJob, owner_id)
    if job is not None and job.resume_blob_key is not None:
        keys.append(job.resume_blob_key)
        job.resume_step, job.resume_blob_key, job.resume_bytes = None, None, 0
    session.flush()
    return keys


def _held(session: Session, owner_id: str, param: str) -> list[HeldFile]:
    query = sa.select(HeldFile).where(HeldFile.owner_id == owner_id, HeldFile.param == param)
    return list(session.scalars(query.order_by(HeldFile.position)))


def _row(owner_id: str, project_id: str, param: str, file: File) -> HeldFile:
    row = HeldFile(owner_id=owner_id, project_id=project_id, param=param, position=0)
    row.filename, row.blob_key, row.bytes = file.filename, file.blob_key, file.bytes
    return row
