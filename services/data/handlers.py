"""What the data service does: take files in, import datasets, build RAFT sets; the reaction table is at the bottom."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import IO, Any

from sqlalchemy.orm import Session

from services.data import repository
from services.data.domain import Example, Fractions, Placed, fingerprint, sizes
from services.data.errors import DatasetBusy, DatasetNotReady, InvalidSplit
from services.data.file_rules import check_expiry, check_name, check_purpose
from services.data.importers import Limits, read_examples
from services.data.preparation import prepare
from services.data.raft import RaftSpec
from services.data.raft_rows import build_rows
from services.data.schemas import CreateDataset, CreateRaftDataset
from services.data.settings import DataSettings
from services.data.tables import Dataset, ExampleRow
from services.data.uploads.handlers import expire_uploads
from shared import jobs, quotas
from shared.errors import UpliftError
from shared.files import File, add_file, get_file, remove_file
from shared.ids import new_id
from shared.jobs import JobCancelled, JobContext, JobHandler
from shared.messages import BuildRaftDataset, Command, ImportDataset, OrderRaftDataset, PurgeExpired
from shared.wiring import Wiring

_STORED_AT_ONCE = 2000
_READ_AT_ONCE = 1000
_PURGED_AT_ONCE = 50


def keep_file(
    parts: Wiring, project_id: str, content: IO[bytes], *, filename: str, purpose: str, expires_after: int | None
) -> File:
    """Store an uploaded file; `expires_after` is in seconds from now."""
    check_purpose(purpose)
    check_name(filename, param="file")
    if expires_after is not None:
        check_expiry(expires_after)
    size = content.seek(0, os.SEEK_END)
    content.seek(0)
    with parts.database.transaction(project_id) as session:  # before the bytes are stored, and again with their row
        quotas.claim_storage(session, project_id, size, parts.settings)
    with (
        parts.storage.staged(project_id, content, limit=DataSettings().max_upload_bytes) as staged,
        parts.database.transaction(project_id) as session,
    ):
        quotas.claim_storage(session, project_id, staged.blob.size, parts.settings)
        return add_file(session, staged, project_id, filename=filename, purpose=purpose, lifetime=expires_after)


def open_file(parts: Wiring, project_id: str, file_id: str) -> tuple[File, Iterator[bytes]]:
    """The file's row and its bytes in chunks."""
    with parts.database.transaction(project_id) as session:
        row = get_file(session, file_id)
    return row, _chunks(parts.storage.open(project_id, row.blob_key))


def delete_file(parts: Wiring, project_id: str, file_id: str) -> None:
    """Delete the row, and the bytes if no other file of the project has the same; datasets made of it stay."""
    with parts.database.transaction(project_id) as session:
        remove_file(session, parts.storage, get_file(session, file_id))


def purge_expired(context: JobContext, _order: PurgeExpired) -> None:
    """Delete the project's files past their expiry, and the parts of uploads that were never completed."""
    storage, counts = context.wiring.storage, {"files": 0, "uploads": 0}
    while True:
        context.check()
        with context.transaction() as session:
            files = repository.expired_files(session, _PURGED_AT_ONCE)
            for row in files:
                remove_file(session, storage, row)
            uploads = expire_uploads(session, storage, _PURGED_AT_ONCE)
            counts = {"files": counts["files"] + len(files), "uploads": counts["uploads"] + uploads}
            if not files and not uploads:
                context.succeed(session, counts)
                return


def create_dataset(session: Session, project_id: str, order: CreateDataset) -> Dataset:
    """Order the import of an uploaded file."""
    try:
        shares = Fractions(**order.split.model_dump())
    except ValueError as error:
        raise InvalidSplit(f"split: {error}", param="split") from error
    source = get_file(session, order.file)
    dataset = Dataset(
        id=new_id("ds_"),
        project_id=project_id,
        name=order.name or PurePosixPath(source.filename).stem,
        spec={"documents_key": order.documents_key, "split": asdict(shares), "seed": order.seed},
        lineage={"file_id": source.id, "filename": source.filename, "file_sha256": source.sha256},
    )
    return _order(session, dataset, ImportDataset(dataset_id=dataset.id))


def create_raft_dataset(session: Session, project_id: str, order: CreateRaftDataset) -> Dataset:
    """Order a retrieval-aware training set."""
    source = ready_dataset(session, order.dataset)
    spec = RaftSpec(
        source_dataset_id=source.id,
        vector_store_id=order.vector_store,
        k=order.k,
        rows_limit=order.rows_limit,
        gold_share=order.gold_share,
        seed=order.seed,
    )
    name = order.name or f"{source.name} with passages"
    dataset = Dataset(id=new_id("ds_"), project_id=project_id, name=name, spec=asdict(spec), lineage={})
    return _order(session, dataset, BuildRaftDataset(dataset_id=dataset.id))


def ready_dataset(session: Session, dataset_id: str) -> Dataset:
    """The dataset, or DatasetNotReady while it is pending or when it failed."""
    dataset = repository.get_dataset(session, dataset_id)
    if dataset.status != "ready":
        raise DatasetNotReady(f"Dataset {dataset_id} is {dataset.status}, not ready.", param="dataset_id")
    return dataset


def list_examples(
    session: Session, dataset_id: str, *, split: str | None, after: str | None, limit: int
) -> tuple[list[ExampleRow], bool]:
    """A page of a ready dataset's examples; while it is pending there is nothing to see."""
    ready_dataset(session, dataset_id)
    return repository.list_examples(session, dataset_id, split=split, after=after, limit=limit)


def delete_dataset(session: Session, dataset_id: str) -> None:
    """Delete a dataset and its examples, unless its job is still at work."""
    dataset = repository.get_dataset(session, dataset_id, lock=True)
    job = repository.jobs_of(session, [dataset]).get(dataset.job_id or "")
    if dataset.status == "pending" and job is not None and job.status not in jobs.TERMINAL:
        raise DatasetBusy(f"Dataset {dataset_id} is being made by job {job.id}: cancel that first.", param="dataset_id")
    session.delete(dataset)


def import_dataset(context: JobContext, order: ImportDataset) -> None:
    """Parse, clean, split and freeze the dataset's source file."""
    with _making(context, order.dataset_id) as dataset:
        spec = dataset.spec
        examples = _read(context, dataset.lineage["file_id"], spec["documents_key"])
        made = prepare(
            examples,
            Fractions(**spec["split"]),
            seed=spec["seed"],
            long_chars=DataSettings().long_example_chars,
            beat=context.check,
        )
        _store(context, dataset.id, made.placed, report=made.report, lineage=dataset.lineage)


def order_raft_dataset(context: JobContext, order: OrderRaftDataset) -> None:
    """Create the row that another service asked for, then build it."""
    spec = RaftSpec(**order.model_dump(exclude={"dataset_id"}))
    with context.transaction() as session:
        source = ready_dataset(session, spec.source_dataset_id)
        repository.add_dataset_once(
            session,
            id=order.dataset_id,
            project_id=context.project_id,
            name=f"{source.name} with passages",
            spec=asdict(spec),
            lineage={},
            job_id=context.job.id,
        )
    build_raft_dataset(context, BuildRaftDataset(dataset_id=order.dataset_id))


def build_raft_dataset(context: JobContext, order: BuildRaftDataset) -> None:
    """Derive training rows with passages from the source dataset, as the dataset's spec says."""
    with _making(context, order.dataset_id) as dataset:
        spec = RaftSpec(**dataset.spec)
        with context.wiring.database.transaction(context.project_id) as session:
            source = ready_dataset(session, spec.source_dataset_id)
            placed = repository.load_placed(session, source.id)
        rows, report = build_rows(context, spec, placed)
        lineage = {"dataset_id": source.id, "dataset_sha256": source.sha256, "vector_store_id": spec.vector_store_id}
        _store(context, dataset.id, rows, report=report, lineage=lineage)


@contextmanager
def _making(context: JobContext, dataset_id: str) -> Iterator[Dataset]:
    """The dataset's row, emptied of what an earlier attempt left; a refusal or a cancel leaves it failed and empty."""
    with context.transaction() as session:
        dataset = repository.get_dataset(session, dataset_id)
        repository.clear_examples(session, dataset_id)
        dataset.status, dataset.error = "pending", None
    try:
        yield dataset
    except JobCancelled:
        error = {"code": "job_cancelled", "message": f"The job {context.job.id} was cancelled.", "param": None}
        _mark_failed(context, dataset_id, error)
        raise
    except UpliftError as refused:
        if not refused.retryable:
            error = {"code": refused.code, "message": refused.message, "param": refused.param}
            _mark_failed(context, dataset_id, error)
        raise


def _mark_failed(context: JobContext, dataset_id: str, error: dict[str, Any]) -> None:
    with context.transaction() as session:
        repository.clear_examples(session, dataset_id)
        dataset = repository.get_dataset(session, dataset_id)
        dataset.status, dataset.error = "failed", error


def _read(context: JobContext, file_id: str, documents_key: str | None) -> list[Example]:
    settings = DataSettings()
    limits = Limits(max_examples=settings.max_examples, max_line_bytes=settings.max_line_bytes)
    with context.wiring.database.transaction(context.project_id) as session:
        source = get_file(session, file_id)
    examples: list[Example] = []
    with context.wiring.storage.open(context.project_id, source.blob_key) as content:
        for example in read_examples(content, limits=limits, documents_key=documents_key):
            example.provenance.update(file_id=file_id, line=example.line)
            examples.append(example)
            if len(examples) % _READ_AT_ONCE == 0:
                context.check()
    return examples


def _store(
    context: JobContext, dataset_id: str, placed: Sequence[Placed], *, report: dict[str, Any], lineage: dict[str, Any]
) -> None:
    """Write the examples in short transactions, so that the job hears a cancel, then make the dataset ready.

    Nobody reads a dataset before it is ready, and ids follow from positions, so an interrupted run leaves nothing
    that the next one would not write alike.
    """
    for first in range(0, len(placed), _STORED_AT_ONCE):
        context.check()
        context.progress(first, len(placed), "examples", "storing")
        with context.transaction() as session:
            batch = placed[first : first + _STORED_AT_ONCE]
            repository.add_examples(session, context.project_id, dataset_id, first, batch)
    digest, counts = fingerprint(placed), sizes(placed)
    with context.transaction() as session:
        dataset = repository.get_dataset(session, dataset_id)
        dataset.status, dataset.sha256, dataset.sizes = "ready", digest, counts
        dataset.report, dataset.lineage = report, lineage
        context.succeed(session, {"dataset_id": dataset_id, "sha256": digest, "sizes": counts})


def _order(session: Session, dataset: Dataset, command: Command) -> Dataset:
    session.add(dataset)
    session.flush()
    job = jobs.send(session, dataset.project_id, command, subject_id=dataset.id)
    dataset.job_id = job.id
    session.flush()
    session.refresh(dataset)
    return dataset


def _chunks(content: IO[bytes]) -> Iterator[bytes]:
    with content:
        while chunk := content.read(1 << 20):
            yield chunk


JOB_HANDLERS: dict[type[Command], JobHandler] = {
    ImportDataset: import_dataset,
    BuildRaftDataset: build_raft_dataset,
    OrderRaftDataset: order_raft_dataset,
    PurgeExpired: purge_expired,
}
