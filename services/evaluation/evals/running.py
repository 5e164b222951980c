"""The job of a run: read its rows, and work until every one has its answer and its grades."""

from pydantic import TypeAdapter

from services.evaluation.errors import EvalRunNotFound
from services.evaluation.evals import repository, source
from services.evaluation.evals.domain import Entry
from services.evaluation.evals.item_schemas import FILE_SECONDS, Rows
from services.evaluation.evals.run_schemas import DataSource, FileContent
from services.evaluation.evals.schemas import Criterion
from services.evaluation.evals.tables import EvalRow
from services.evaluation.evals.working import Done, RunAtWork
from services.evaluation.settings import EvaluationSettings
from shared.jobs import JobCancelled, JobContext, JobHandler
from shared.messages import Command, RunEval

_DATA_SOURCE: TypeAdapter[DataSource] = TypeAdapter(DataSource)
_CRITERIA: TypeAdapter[list[Criterion]] = TypeAdapter(list[Criterion])


def run_eval(context: JobContext, command: RunEval) -> None:
    """Answers and grades are rows, so a second run asks only what the first did not store."""
    try:
        _prepare(context, command.eval_run_id).work()
    except EvalRunNotFound as error:
        raise JobCancelled(context.job.id) from error  # somebody deleted it: there is nothing left to do
    with context.transaction() as session:
        tally = repository.tallies(session, [command.eval_run_id])[command.eval_run_id]
        context.succeed(session, {"eval_run_id": command.eval_run_id, "result_counts": dict(tally.statuses)})


def _prepare(context: JobContext, run_id: str) -> RunAtWork:
    with context.transaction() as session:
        row = repository.run(session, run_id)
        evaluation = repository.evaluation(session, row.eval_id)
        ordered = _DATA_SOURCE.validate_python(row.data_source)
        key = None if isinstance(ordered.source, FileContent) else source.file_key(session, ordered.source.id)
        waiting = repository.unfinished(session, run_id)
        done = Done(repository.positions(session, run_id), waiting, repository.graded(session, run_id, waiting))
    entries = _entries(context, evaluation, ordered, key)
    criteria = _CRITERIA.validate_python(evaluation.testing_criteria)
    settings = context.wiring.settings
    assert isinstance(settings, EvaluationSettings)
    return RunAtWork(context, run_id, ordered, criteria, entries, done, embedder=settings.embedder)


def _entries(context: JobContext, evaluation: EvalRow, ordered: DataSource, key: str | None) -> list[Entry]:
    if isinstance(ordered.source, FileContent):
        return source.from_content(ordered.source, Rows(evaluation.item_schema))
    assert key is not None
    with context.wiring.storage.open(context.project_id, key) as stream:
        return source.from_lines(stream, Rows(evaluation.item_schema, seconds=FILE_SECONDS))


JOB_HANDLERS: dict[type[Command], JobHandler] = {RunEval: run_eval}
