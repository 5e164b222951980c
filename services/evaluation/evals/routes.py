"""OpenAI's Evals over HTTP: evals, their runs, the runs' output items."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from sqlalchemy.orm import Session

from services.evaluation.evals import handlers, repository
from services.evaluation.evals.answers import DeletedEval, DeletedEvalRun, EvalObject, EvalRunObject, OutputItemObject
from services.evaluation.evals.domain import RunStatus
from services.evaluation.evals.objects import eval_object, output_item_object, run_object
from services.evaluation.evals.repository import Order, OrderBy
from services.evaluation.evals.run_schemas import CreateRun
from services.evaluation.evals.schemas import CreateEval, UpdateEval
from services.evaluation.evals.tables import EvalRunRow
from shared.answers import Page, answering
from shared.web import Caller, caller, page, wiring
from shared.wiring import Wiring

router = APIRouter(prefix="/evals", tags=["evals"])
Who = Annotated[Caller, Depends(caller)]
Parts = Annotated[Wiring, Depends(wiring)]
Limit = Annotated[int, Query(ge=1, le=100)]
ItemStatus = Literal["pass", "fail", "error"]


@router.post("", responses=answering(EvalObject))
def create_eval(body: CreateEval, who: Who, parts: Parts) -> dict[str, Any]:
    """Say what good answers are: the JSON Schema of the rows, and the criteria that grade them.

    Criteria are `string_check`, `text_similarity`, `score_model` and `label_model` graders, whose texts may hold
    variables such as `{{item.question}}` and `{{sample.output_text}}`; one that the schema does not have is a 400.
    `python` graders need a sandbox, which this server has none of.
    """
    handlers.check_eval(body)
    with parts.database.transaction(who.project_id) as session:
        return eval_object(handlers.create_eval(session, who.project_id, body))


@router.get("", responses=answering(Page[EvalObject]))
def list_evals(
    who: Who,
    parts: Parts,
    after: str | None = None,
    limit: Limit = 20,
    order: Order = "asc",
    order_by: OrderBy = "created_at",
) -> dict[str, Any]:
    """The project's evals, oldest first unless told otherwise."""
    with parts.database.transaction(who.project_id) as session:
        found, more = repository.evaluations(session, after=after, limit=limit, order=order, order_by=order_by)
        return page([eval_object(row) for row in found], has_more=more)


@router.get("/{eval_id}", responses=answering(EvalObject))
def show_eval(eval_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """One eval."""
    with parts.database.transaction(who.project_id) as session:
        return eval_object(repository.evaluation(session, eval_id))


@router.post("/{eval_id}", responses=answering(EvalObject))
def update_eval(eval_id: str, body: UpdateEval, who: Who, parts: Parts) -> dict[str, Any]:
    """Rename an eval or replace its metadata; its schema and criteria never change."""
    with parts.database.transaction(who.project_id) as session:
        return eval_object(handlers.update_eval(session, eval_id, body))


@router.delete("/{eval_id}", responses=answering(DeletedEval))
def delete_eval(eval_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Delete an eval with all its runs; runs still at work are cancelled."""
    with parts.database.transaction(who.project_id) as session:
        handlers.delete_eval(session, eval_id)
    return {"object": "eval.deleted", "deleted": True, "eval_id": eval_id}


@router.post("/{eval_id}/runs", responses=answering(EvalRunObject))
def create_run(eval_id: str, body: CreateRun, who: Who, parts: Parts) -> dict[str, Any]:
    """Run an eval over rows, as a job: `jsonl` grades rows as they are, `completions` asks a model about each first.

    Rows come with the request (`file_content`, checked at once, within ten seconds of computing) or from an uploaded
    file of JSON lines `{"item": {…}, "sample": {…}}` (`file_id`, checked when the run starts: a wrong line fails the
    run and is named).
    Poll the run until its status is `completed`, `failed` or `canceled`.
    """
    with parts.database.transaction(who.project_id) as session:
        schema = repository.evaluation(session, eval_id).item_schema  # it never changes
    handlers.check_rows(schema, body.data_source)
    with parts.database.transaction(who.project_id) as session:
        return _run(session, handlers.create_run(session, who.project_id, eval_id, body, parts.settings))


@router.get("/{eval_id}/runs", responses=answering(Page[EvalRunObject]))
def list_runs(
    eval_id: str,
    who: Who,
    parts: Parts,
    after: str | None = None,
    limit: Limit = 20,
    order: Order = "asc",
    status: RunStatus | None = None,
) -> dict[str, Any]:
    """An eval's runs, oldest first unless told otherwise, of one status if it is named."""
    with parts.database.transaction(who.project_id) as session:
        repository.evaluation(session, eval_id)
        found, more = repository.runs(session, eval_id, after=after, limit=limit, order=order, status=status)
        return page(_runs(session, found), has_more=more)


@router.get("/{eval_id}/runs/{run_id}", responses=answering(EvalRunObject))
def show_run(eval_id: str, run_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """One run with its counts so far.

    `pass_rate` (of the run and of every criterion) is the share that passed among those with a verdict, with Wilson's
    95 % limits: two runs whose limits overlap much are not known to differ.
    """
    with parts.database.transaction(who.project_id) as session:
        return _run(session, repository.run(session, run_id, eval_id=eval_id))


@router.delete("/{eval_id}/runs/{run_id}", responses=answering(DeletedEvalRun))
def delete_run(eval_id: str, run_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Delete a run with its items; one still at work is cancelled."""
    with parts.database.transaction(who.project_id) as session:
        handlers.delete_run(session, eval_id, run_id)
    return {"object": "eval.run.deleted", "deleted": True, "run_id": run_id}


@router.post("/{eval_id}/runs/{run_id}/cancel", responses=answering(EvalRunObject))
def cancel_run(eval_id: str, run_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Cancel a run: waiting, it is canceled at once; at work, it stops within seconds and keeps what it has."""
    with parts.database.transaction(who.project_id) as session:
        return _run(session, handlers.cancel_run(session, eval_id, run_id))


@router.post("/{eval_id}/runs/{run_id}", responses=answering(EvalRunObject))
def cancel_run_older_form(eval_id: str, run_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Cancel a run, in the form that clients before version 3 send."""
    return cancel_run(eval_id, run_id, who, parts)


@router.get("/{eval_id}/runs/{run_id}/output_items", responses=answering(Page[OutputItemObject]))
def list_output_items(
    eval_id: str,
    run_id: str,
    who: Who,
    parts: Parts,
    after: str | None = None,
    limit: Limit = 20,
    order: Order = "asc",
    status: ItemStatus | None = None,
) -> dict[str, Any]:
    """A run's finished items in the order of its data source, with answers and grades."""
    with parts.database.transaction(who.project_id) as session:
        run = repository.run(session, run_id, eval_id=eval_id)
        criteria = repository.evaluation(session, run.eval_id).testing_criteria
        found, more = repository.output_items(session, run_id, after=after, limit=limit, order=order, status=status)
        grades = repository.grades(session, run_id, [row.position for row in found])
        items = [output_item_object(row, grades[row.position], eval_id=eval_id, criteria=criteria) for row in found]
        return page(items, has_more=more)


@router.get("/{eval_id}/runs/{run_id}/output_items/{output_item_id}", responses=answering(OutputItemObject))
def show_output_item(eval_id: str, run_id: str, output_item_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """One item with its answer and its grades."""
    with parts.database.transaction(who.project_id) as session:
        run = repository.run(session, run_id, eval_id=eval_id)
        criteria = repository.evaluation(session, run.eval_id).testing_criteria
        row = repository.output_item(session, run_id, output_item_id)
        grades = repository.grades(session, run_id, [row.position])
        return output_item_object(row, grades[row.position], eval_id=eval_id, criteria=criteria)


def _run(session: Session, row: EvalRunRow) -> dict[str, Any]:
    (found,) = _runs(session, [row])
    return found


def _runs(session: Session, rows: list[EvalRunRow]) -> list[dict[str, Any]]:
    """Runs of one eval."""
    if not rows:
        return []
    names = [one["name"] for one in repository.evaluation(session, rows[0].eval_id).testing_criteria]
    jobs = repository.jobs_by_id(session, [row.job_id for row in rows])
    tallies = repository.tallies(session, [row.id for row in rows])
    return [run_object(row, jobs[row.job_id], tallies[row.id], names) for row in rows]
