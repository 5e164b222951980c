"""Use cases of batches: order one, cancel it, ask its lines, write its files."""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from services.evaluation.batches import domain, repository
from services.evaluation.batches.asking import ask
from services.evaluation.batches.domain import Checked, Ending, Line, Problem
from services.evaluation.batches.errors import AnsweringStalled, BatchNotCancellable, InvalidBatch, WindowOver
from services.evaluation.batches.schemas import CreateBatch
from services.evaluation.batches.tables import Batch
from shared import jobs, quotas
from shared.clock import now
from shared.files import add_file, hold_file, lock_blobs, release_blobs
from shared.ids import new_id
from shared.jobs import JobContext, JobHandler
from shared.messages import Command, FinishBatch, RunBatch
from shared.settings import Settings
from shared.storage import Staged
from shared.telemetry import logger
from shared.text_lines import UnreadableText, numbered_lines

log = logger(__name__)
_ATTEMPTS = 20
"""A batch runs for up to a day; workers may be restarted more than three times in one."""
_LINES_PER_CHECK = 1000
_LONGEST_PAUSE = 30.0
T = TypeVar("T")


def create_batch(session: Session, project_id: str, order: CreateBatch, settings: Settings) -> Batch:
    """Order the answering of an uploaded file; its lines are checked by the job."""
    quotas.check_tokens(session, settings)
    source = hold_file(session, order.input_file_id, param="input_file_id")
    if source.purpose != "batch":
        problem = f"File {source.id} was uploaded for {source.purpose}; a batch reads files of purpose batch."
        raise InvalidBatch(problem, param="input_file_id")
    if source.bytes > domain.MOST_BYTES:
        problem = f"File {source.id} has {source.bytes} bytes; the limit is {domain.MOST_BYTES}."
        raise InvalidBatch(problem, param="input_file_id")
    row = Batch(id=new_id("batch_"), project_id=project_id, job_id=new_id("job_"), endpoint=order.endpoint)
    row.input_file_id, row.input_blob_key, row.metadata_ = source.id, source.blob_key, order.metadata
    row.output_lifetime = order.output_expires_after.seconds if order.output_expires_after else None
    row.expires_at = now() + timedelta(seconds=domain.WINDOW_SECONDS)
    session.add(row)
    session.flush()
    jobs.send(
        session,
        project_id,
        RunBatch(batch_id=row.id),
        job_id=row.job_id,
        subject_id=row.id,
        notify=FinishBatch,
        max_attempts=_ATTEMPTS,
    )
    session.refresh(row)
    return row


def cancel_batch(session: Session, batch_id: str) -> Batch:
    """Ask no more lines; what was answered is written to files, and then the batch is cancelled."""
    job = jobs.get(session, repository.get_batch(session, batch_id).job_id, lock=True)
    batch = repository.get_batch(session, batch_id, lock=True)
    if batch.status == "cancelling":
        return batch
    if batch.status not in domain.OPEN:
        raise BatchNotCancellable(f"Batch {batch_id} is {batch.status}: nothing is left to cancel.", param="batch_id")
    batch.status, batch.cancelling_at = "cancelling", now()
    session.flush()
    if job.status not in jobs.TERMINAL:
        jobs.cancel(session, job.id)
    return batch


def run_batch(context: JobContext, command: RunBatch) -> None:
    """Check the file, then ask every line that has no answer yet, until all have one or the window is over."""
    with context.transaction() as session:
        batch = repository.get_batch(session, command.batch_id)
    if batch.status == "validating" and not _accepted(context, batch):
        return
    try:
        _ask_until_all_are_answered(context, batch.id)
    except WindowOver:
        log.warning("batch expired", batch_id=batch.id)
    with context.transaction() as session:
        repository.finalize(session, batch.id)
        context.succeed(session, {"batch_id": batch.id})


def finish_batch(context: JobContext, event: FinishBatch) -> None:
    """Write what was answered, and why the rest was not; the batch reaches its last state with its files."""
    with context.transaction() as session:
        batch = repository.get_batch(session, str(event.subject_id))
        done = repository.answered(session, batch.id)
    end = domain.ending(batch.status, event.status, complete=len(done) == batch.total)
    with ExitStack() as stack:
        output, errors = _staged_files(context, stack, batch, done, end)
        with context.transaction() as session:
            _settle(context, session, batch.id, event, end, output=output, errors=errors)
            context.succeed(session, {"batch_id": batch.id, "status": end.status})


def _accepted(context: JobContext, batch: Batch) -> bool:
    """Whether the file is a batch; if not, the batch and this job have failed."""
    try:
        checked = domain.check(_checking(context, _raw_lines(context, batch)), batch.endpoint)
    except UnreadableText as unreadable:
        checked = Checked(problems=[Problem("invalid_file", unreadable.problem, unreadable.line or None)])
    with context.transaction() as session:
        if not checked.problems:
            repository.begin(session, batch.id, checked)
            return True
        repository.refuse(session, batch.id, checked)
        first = checked.problems[0]
        error = {"code": first.code, "message": first.message, "param": first.param}
        context.end(session, "failed", error=error)
        return False


def _ask_until_all_are_answered(context: JobContext, batch_id: str) -> None:
    with context.transaction() as session:
        batch = repository.get_batch(session, batch_id)
        done = repository.answered(session, batch_id)

    def check() -> None:
        context.check()
        with context.wiring.database.transaction(context.project_id) as session:
            if repository.window_is_over(session, batch_id):
                raise WindowOver
            quotas.check_tokens(session, context.wiring.settings)

    def save(rows: list[dict[str, Any]]) -> None:
        with context.transaction() as session:
            quotas.add_tokens(session, context.project_id, repository.add_answers(session, batch_id, rows))
        done.update(row["line"] for row in rows)
        context.progress(len(done), batch.total, "requests")

    stalls: dict[int, int] = {}
    pause = 1.0
    while len(done) < batch.total:
        check()
        try:
            ask(context.wiring.live, batch, _lines(context, batch, done), stalls=stalls, save=save, check=check)
        except AnsweringStalled as stalled:
            log.warning("batch waits for workers", batch_id=batch_id, seconds=pause, error=stalled.message)
            _wait(pause, check)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _wait(seconds: float, check: Any) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        check()
        time.sleep(0.5)


def _staged_files(
    context: JobContext, stack: ExitStack, batch: Batch, done: set[int], end: Ending
) -> tuple[Staged | None, Staged | None]:
    """The output file, if a line was answered well, and the error file, if one was not; staged, not yet kept."""
    checked = batch.in_progress_at is not None
    unasked = _lines(context, batch, done) if checked and len(done) < batch.total else iter(())

    def staged(lines: Iterator[dict[str, Any]]) -> Staged:
        chunks = (json.dumps(line).encode() + b"\n" for line in _checking(context, lines))
        return stack.enter_context(context.wiring.storage.staged(context.project_id, chunks))

    def bad() -> Iterator[dict[str, Any]]:
        yield from _answered(context, batch, good=False)
        yield from (domain.unasked_line(batch.id, line, end) for line in unasked)

    has_errors = batch.failed > 0 or (checked and len(done) < batch.total)
    output = staged(_answered(context, batch, good=True)) if batch.completed else None
    return output, staged(bad()) if has_errors else None


def _settle(
    context: JobContext,
    session: Session,
    batch_id: str,
    event: FinishBatch,
    end: Ending,
    *,
    output: Staged | None,
    errors: Staged | None,
) -> None:
    batch = repository.get_batch(session, batch_id, lock=True)
    held = [batch.input_blob_key] if batch.input_blob_key else []
    lock_blobs(session, [staged.blob.key for staged in (output, errors) if staged])

    def kept(staged: Staged | None, kind: str) -> str | None:
        if staged is None:
            return None
        name = f"{batch.id}_{kind}.jsonl"
        lifetime = batch.output_lifetime
        return add_file(
            session, staged, context.project_id, filename=name, purpose="batch_output", lifetime=lifetime
        ).id

    batch.output_file_id, batch.error_file_id = kept(output, "output"), kept(errors, "error")
    if end.status == "failed" and batch.errors is None:
        error = event.error or {}
        batch.errors = [Problem(str(error.get("code")), str(error.get("message"))).as_record()]
    repository.end(session, batch, end.status)
    release_blobs(session, context.wiring.storage, context.project_id, held)


def _answered(context: JobContext, batch: Batch, *, good: bool) -> Iterator[dict[str, Any]]:
    with context.wiring.database.transaction(context.project_id) as session:
        for row in repository.answers(session, batch.id, good=good):
            yield domain.answer_line(
                batch.id,
                row.line,
                row.custom_id,
                status_code=row.status_code,
                request_id=row.request_id,
                body=json.loads(row.body),
            )


def _lines(context: JobContext, batch: Batch, done: set[int]) -> Iterator[Line]:
    """The requests that have no answer."""
    for number, raw in _raw_lines(context, batch):
        if raw.strip() and number not in done:
            yield domain.parse(number, raw, batch.endpoint)


def _raw_lines(context: JobContext, batch: Batch) -> Iterator[tuple[int, bytes]]:
    with context.wiring.storage.open(context.project_id, str(batch.input_blob_key)) as stream:
        yield from numbered_lines(stream, domain.LONGEST_LINE)


def _checking(context: JobContext, items: Iterable[T]) -> Iterator[T]:
    for count, item in enumerate(items):
        if count % _LINES_PER_CHECK == 0:
            context.check()
        yield item


JOB_HANDLERS: dict[type[Command], JobHandler] = {RunBatch: run_batch, FinishBatch: finish_batch}
