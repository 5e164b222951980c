"""Every query of Evals on its own tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from services.evaluation.errors import EvalNotFound, EvalRunNotFound, OutputItemNotFound
from services.evaluation.evals.domain import Criterion, RunStatus, Tally, job_statuses
from services.evaluation.evals.samples import usage_object
from services.evaluation.evals.tables import EvalRow, EvalRunRow, GradeRow, OutputItemRow
from shared.jobs import Job

Order = Literal["asc", "desc"]
OrderBy = Literal["created_at", "updated_at"]


def add(session: Session, row: EvalRow | EvalRunRow) -> None:
    """A new eval, or a new run; a run's job must be sent in the same transaction."""
    session.add(row)
    session.flush()
    session.refresh(row)


def evaluation(
    session: Session, eval_id: str, *, param: str = "eval_id", lock: Literal["change", "keep"] | None = None
) -> EvalRow:
    """One eval; until the transaction ends, `change` lets nobody else write it, `keep` lets nobody delete it."""
    query = sa.select(EvalRow).where(EvalRow.id == eval_id)
    if lock is not None:
        query = query.with_for_update(key_share=True, read=lock == "keep")
    found = session.scalars(query).one_or_none()
    if found is None:
        raise EvalNotFound(f"There is no eval {eval_id!r} in this project.", param=param)
    return found


def evaluations(
    session: Session, *, after: str | None, limit: int, order: Order, order_by: OrderBy
) -> tuple[list[EvalRow], bool]:
    """A page of evals from beyond the eval `after`; the flag says whether more follow."""
    column = EvalRow.created_at if order_by == "created_at" else EvalRow.updated_at
    query = sa.select(EvalRow)
    if after is not None:
        last = evaluation(session, after, param="after")
        query = _beyond(query, (column, EvalRow.id), (getattr(last, order_by), last.id), order)
    return _page(session, query, (column, EvalRow.id), order, limit)


def update(session: Session, row: EvalRow, changes: Mapping[str, Any]) -> None:
    """Write new values of columns."""
    for name, value in {**changes, "updated_at": sa.func.now()}.items():
        setattr(row, name, value)
    session.flush()
    session.refresh(row)


def delete(session: Session, row: EvalRow | EvalRunRow) -> bool:
    """Delete it with all that belongs to it; false if somebody else just did."""
    table = type(row)
    return session.scalar(sa.delete(table).where(table.id == row.id).returning(table.id)) is not None


def run(session: Session, run_id: str, *, eval_id: str | None = None, param: str = "run_id") -> EvalRunRow:
    """One run; with `eval_id`, of that eval only."""
    found = session.get(EvalRunRow, run_id)
    if found is None or eval_id not in {None, found.eval_id}:
        of = f"eval {eval_id!r}" if eval_id else "this project"
        raise EvalRunNotFound(f"There is no run {run_id!r} in {of}.", param=param)
    return found


def runs(
    session: Session, eval_id: str, *, after: str | None, limit: int, order: Order, status: RunStatus | None
) -> tuple[list[EvalRunRow], bool]:
    """A page of an eval's runs from beyond the run `after`; the flag says whether more follow."""
    query = sa.select(EvalRunRow).where(EvalRunRow.eval_id == eval_id)
    if status is not None:
        query = query.join(Job, Job.id == EvalRunRow.job_id).where(Job.status.in_(job_statuses(status)))
    key = (EvalRunRow.created_at, EvalRunRow.id)
    if after is not None:
        last = run(session, after, eval_id=eval_id, param="after")
        query = _beyond(query, key, (last.created_at, last.id), order)
    return _page(session, query, key, order, limit)


def run_jobs(session: Session, eval_id: str) -> list[str]:
    """The jobs of an eval's runs."""
    return list(session.scalars(sa.select(EvalRunRow.job_id).where(EvalRunRow.eval_id == eval_id)))


def jobs_by_id(session: Session, ids: Sequence[str]) -> dict[str, Job]:
    """Jobs by id: their states are the runs'."""
    return {job.id: job for job in session.scalars(sa.select(Job).where(Job.id.in_(ids)))}


def hold_run(session: Session, run_id: str) -> None:
    """Keep the run from being deleted until the transaction ends; raises EvalRunNotFound if it is gone."""
    query = sa.select(EvalRunRow.id).where(EvalRunRow.id == run_id)
    if session.scalars(query.with_for_update(key_share=True, read=True)).one_or_none() is None:
        raise EvalRunNotFound(f"Run {run_id} was deleted.")


def tallies(session: Session, run_ids: Sequence[str]) -> dict[str, Tally]:
    """How runs stand, as far as their items and grades are stored."""
    if not run_ids:
        return {}
    statuses, criteria, usage = _statuses(session, run_ids), _criteria(session, run_ids), _usage(session, run_ids)
    return {one: Tally(statuses.get(one, {}), criteria.get(one, {}), tuple(usage.get(one, ()))) for one in run_ids}


def output_item(session: Session, run_id: str, item_id: str, *, param: str = "output_item_id") -> OutputItemRow:
    """One finished item of a run."""
    query = sa.select(OutputItemRow).where(
        OutputItemRow.id == item_id, OutputItemRow.run_id == run_id, OutputItemRow.status.is_not(None)
    )
    found = session.scalars(query).one_or_none()
    if found is None:
        raise OutputItemNotFound(f"There is no output item {item_id!r} in run {run_id!r}.", param=param)
    return found


def output_items(
    session: Session, run_id: str, *, after: str | None, limit: int, order: Order, status: str | None
) -> tuple[list[OutputItemRow], bool]:
    """A page of a run's finished items by their place in the data source; the flag says whether more follow."""
    query = sa.select(OutputItemRow).where(OutputItemRow.run_id == run_id)
    query = query.where(OutputItemRow.status == status if status else OutputItemRow.status.is_not(None))
    if after is not None:
        last = output_item(session, run_id, after, param="after")
        query = _beyond(query, (OutputItemRow.position,), (last.position,), order)
    return _page(session, query, (OutputItemRow.position,), order, limit)


def grades(session: Session, run_id: str, positions: Sequence[int]) -> dict[int, list[GradeRow]]:
    """The grades of some items, by position, in the order of the criteria."""
    query = sa.select(GradeRow).where(GradeRow.run_id == run_id, GradeRow.position.in_(positions))
    found: dict[int, list[GradeRow]] = {position: [] for position in positions}
    for row in session.scalars(query.order_by(GradeRow.criterion)):
        found[row.position].append(row)
    return found


def unfinished(session: Session, run_id: str) -> dict[int, dict[str, Any]]:
    """The answers that still wait for grades, by position."""
    query = sa.select(OutputItemRow.position, OutputItemRow.sample)
    rows = session.execute(query.where(OutputItemRow.run_id == run_id, OutputItemRow.status.is_(None)))
    return {row.position: row.sample for row in rows}


def positions(session: Session, run_id: str) -> set[int]:
    """The rows that have their answer."""
    return set(session.scalars(sa.select(OutputItemRow.position).where(OutputItemRow.run_id == run_id)))


def graded(session: Session, run_id: str, of: Iterable[int]) -> set[tuple[int, int]]:
    """(position, criterion) of every grade that these items have."""
    query = sa.select(GradeRow.position, GradeRow.criterion)
    query = query.where(GradeRow.run_id == run_id, GradeRow.position.in_(list(of)))
    return {(row.position, row.criterion) for row in session.execute(query)}


def save(
    session: Session, run_id: str, *, items: list[dict[str, Any]], grades: list[dict[str, Any]], criteria: int
) -> int:
    """Store answers and grades, those that are there already left as they are; an item whose `criteria` grades are
    complete gets its status. Answers the tokens that the new ones used."""
    used = _added(session, OutputItemRow, items) + _added(session, GradeRow, grades)
    if grades:
        _settle(session, run_id, [row["position"] for row in grades], criteria)
    return used


def _added(session: Session, table: type[OutputItemRow | GradeRow], rows: list[dict[str, Any]]) -> int:
    if not rows:
        return 0
    added = insert(table).values(rows).on_conflict_do_nothing()
    return sum(session.scalars(added.returning(table.prompt_tokens + table.completion_tokens)))


def _settle(session: Session, run_id: str, touched: list[int], criteria: int) -> None:
    status = sa.case(
        (sa.func.bool_or(GradeRow.error.is_not(None)), "error"),
        (sa.func.bool_and(GradeRow.passed), "pass"),
        else_="fail",
    )
    complete = (
        sa.select(GradeRow.position, status.label("status"))
        .where(GradeRow.run_id == run_id, GradeRow.position.in_(touched))
        .group_by(GradeRow.position)
        .having(sa.func.count() == criteria)
        .subquery()
    )
    session.execute(
        sa.update(OutputItemRow)
        .where(OutputItemRow.run_id == run_id, OutputItemRow.position == complete.c.position)
        .where(OutputItemRow.status.is_(None))
        .values(status=complete.c.status)
        .execution_options(synchronize_session=False)
    )


def _statuses(session: Session, run_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    query = sa.select(OutputItemRow.run_id, OutputItemRow.status, sa.func.count())
    query = query.where(OutputItemRow.run_id.in_(run_ids), OutputItemRow.status.is_not(None))
    found: dict[str, dict[str, int]] = {}
    for run_id, status, count in session.execute(query.group_by(OutputItemRow.run_id, OutputItemRow.status)):
        found.setdefault(run_id, {})[str(status)] = count
    return found


def _criteria(session: Session, run_ids: Sequence[str]) -> dict[str, dict[int, Criterion]]:
    passed = sa.func.count().filter(GradeRow.passed.is_(True))
    failed = sa.func.count().filter(GradeRow.passed.is_(False))
    errored = sa.func.count().filter(GradeRow.error.is_not(None))
    query = sa.select(GradeRow.run_id, GradeRow.criterion, passed, failed, errored)
    query = query.where(GradeRow.run_id.in_(run_ids)).group_by(GradeRow.run_id, GradeRow.criterion)
    found: dict[str, dict[int, Criterion]] = {}
    for run_id, criterion, *counts in session.execute(query):
        found.setdefault(run_id, {})[criterion] = Criterion(*counts)
    return found


def _usage(session: Session, run_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    def requests(table: type[OutputItemRow | GradeRow]) -> sa.Select[Any]:
        columns: list[Any] = [table.run_id, table.model, table.prompt_tokens, table.completion_tokens]
        return sa.select(*columns).where(table.run_id.in_(run_ids), table.model.is_not(None))

    every = requests(OutputItemRow).union_all(requests(GradeRow)).subquery()
    query = sa.select(
        every.c.run_id,
        every.c.model,
        sa.func.count(),
        sa.func.sum(every.c.prompt_tokens),
        sa.func.sum(every.c.completion_tokens),
    )
    found: dict[str, list[dict[str, Any]]] = {}
    grouped = query.group_by(every.c.run_id, every.c.model).order_by(every.c.model)
    for run_id, model, count, prompt, completion in session.execute(grouped):
        one = {"model_name": model, "invocation_count": count} | usage_object(prompt, completion)
        found.setdefault(run_id, []).append(one)
    return found


def _beyond(query: sa.Select[Any], key: Sequence[Any], last: Sequence[Any], order: Order) -> sa.Select[Any]:
    beyond = sa.tuple_(*key) > sa.tuple_(*last) if order == "asc" else sa.tuple_(*key) < sa.tuple_(*last)
    return query.where(beyond)


def _page(
    session: Session, query: sa.Select[Any], key: Sequence[Any], order: Order, limit: int
) -> tuple[list[Any], bool]:
    sorting = [column.asc() if order == "asc" else column.desc() for column in key]
    found = list(session.scalars(query.order_by(*sorting).limit(limit + 1)))
    return found[:limit], len(found) > limit
