"""Use cases of adapters: take an upload in, check it, delete an adapter."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from services.training.adapters import repository
from services.training.adapters.adapter_import import AdapterUpload
from services.training.adapters.config import MOST_BYTES
from services.training.adapters.errors import AdapterInUse, AdapterTooLarge
from services.training.adapters.repository import KnownAdapter
from services.training.adapters.tables import AdapterImport
from services.training.held import hold_files
from services.training.rendering import model_folder
from services.training.repository import delete_weights
from services.training.settings import TrainingSettings
from shared import jobs, quotas
from shared.files import File, get_file, release_blobs
from shared.ids import new_id
from shared.jobs import JobCancelled, JobContext
from shared.messages import ImportAdapter
from shared.weights import lock_weights, user_of
from shared.wiring import Wiring


@dataclass(frozen=True)
class NewAdapter:
    """What a client asks for."""

    base_model: str
    weights_file: str
    config_file: str
    suffix: str | None
    metadata: dict[str, str]


def create_adapter(session: Session, project_id: str, wanted: NewAdapter, settings: TrainingSettings) -> KnownAdapter:
    """Check what the rows alone tell, then order the import."""
    if settings.models_dir.is_dir():  # a gateway apart from the workers has no models to look at
        model_folder(settings.models_dir, wanted.base_model)
    weights = _sized_file(session, wanted.weights_file, settings.adapter_most_bytes, param="weights_file")
    config = _sized_file(session, wanted.config_file, MOST_BYTES, param="config_file")
    quotas.claim_storage(session, project_id, weights.bytes + config.bytes, settings, param="weights_file")
    adapter_id = new_id("ad_")
    job = jobs.send(session, project_id, ImportAdapter(adapter_id=adapter_id), subject_id=adapter_id)
    row = AdapterImport(
        id=adapter_id,
        project_id=project_id,
        job_id=job.id,
        base_model=wanted.base_model,
        weights_file=wanted.weights_file,
        config_file=wanted.config_file,
        suffix=wanted.suffix,
        metadata_=wanted.metadata,
    )
    session.add(row)
    named: dict[str, str | None] = {"weights_file": wanted.weights_file, "config_file": wanted.config_file}
    hold_files(session, project_id, job.id, named)
    session.refresh(row)
    return KnownAdapter(row, None, job)


def delete_adapter(parts: Wiring, project_id: str, adapter_id: str) -> str:
    """Delete an adapter that nothing needs, with its weights; an upload still at work is cancelled. Answers its id."""
    with parts.database.transaction(project_id) as session:
        found = repository.known(session, adapter_id).id
        lock_weights(session, found)
        upload = repository.find_upload(session, found, lock=True)  # the import's last step waits for us
        known = repository.known(session, found)
        user = user_of(session, found)
        if user is not None:
            raise AdapterInUse(f"Adapter {adapter_id} is needed by {user}; delete or cancel that first.")
        if upload is not None and known.job is not None and known.job.status not in jobs.TERMINAL:
            jobs.cancel(session, known.job.id)
        release_blobs(session, parts.storage, project_id, delete_weights(session, found))
    return found


def import_adapter(context: JobContext, command: ImportAdapter) -> None:
    """Check the upload and make it a model; one that was deleted meanwhile is dropped."""
    with context.transaction() as session:
        upload = repository.find_upload(session, command.adapter_id)
    if upload is None:
        raise JobCancelled(command.adapter_id)
    AdapterUpload(context, upload).run()


def _sized_file(session: Session, file_id: str, most: int, *, param: str) -> File:
    """The file; AdapterTooLarge beyond `most` bytes."""
    found = get_file(session, file_id, param=param)
    if found.bytes > most:
        raise AdapterTooLarge(f"{file_id} has {found.bytes} bytes; at most {most} are taken.", param=param)
    return found


JOB_HANDLERS: dict[Any, Any] = {ImportAdapter: import_adapter}
