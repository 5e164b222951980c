"""Every query of the evaluation service on its own tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from services.evaluation.domain import Experiment, Step
from services.evaluation.errors import EvaluationNotFound, ExperimentNotFound
from services.evaluation.tables import Answer, Evaluation, ExperimentRow, ReportRow, StepRow, TestLook
from shared.clock import now
from shared.jobs import Job


def add_experiment(session: Session, row: ExperimentRow, steps: Iterable[Step]) -> None:
    """A new experiment with its whole plan."""
    session.add(row)
    session.flush()
    for position, step in enumerate(steps):
        made = StepRow(experiment_id=row.id, project_id=row.project_id, name=step.name, position=position)
        made.kind, made.depends_on, made.params = step.kind, list(step.depends_on), dict(step.params)
        made.subject_id, made.status = step.subject_id, step.status
        session.add(made)
    session.flush()


def experiment(session: Session, experiment_id: str, *, lock: bool = False) -> ExperimentRow:
    """One experiment; locked, nobody else advances it until this transaction ends (rows may still refer to it)."""
    query = sa.select(ExperimentRow).where(ExperimentRow.id == experiment_id)
    found = session.scalars(query.with_for_update(key_share=True) if lock else query).one_or_none()
    if found is None:
        raise ExperimentNotFound(f"There is no experiment {experiment_id!r} in this project.", param="experiment_id")
    return found


def experiments(session: Session, *, after: str | None, limit: int) -> tuple[list[ExperimentRow], bool]:
    """Newest first, after the experiment `after`; the flag says whether more follow."""
    order = (ExperimentRow.created_at, ExperimentRow.id)
    query = sa.select(ExperimentRow).order_by(*(column.desc() for column in order)).limit(limit + 1)
    if after is not None:
        last = experiment(session, after)
        query = query.where(sa.tuple_(*order) < sa.tuple_(last.created_at, last.id))
    found = list(session.scalars(query))
    return found[:limit], len(found) > limit


def steps(session: Session, experiment_id: str) -> list[StepRow]:
    """An experiment's steps in the order of its plan."""
    query = sa.select(StepRow).where(StepRow.experiment_id == experiment_id).order_by(StepRow.position)
    return list(session.scalars(query))


def jobs_by_id(session: Session, ids: Sequence[str]) -> dict[str, Job]:
    """Jobs by id: their state and progress are what steps and evaluations show."""
    return {job.id: job for job in session.scalars(sa.select(Job).where(Job.id.in_(ids)))}


def state(row: ExperimentRow, found: Iterable[StepRow]) -> Experiment:
    """The experiment as the domain sees it."""
    return Experiment(
        steps={step.name: _step(step) for step in found},
        metric=row.spec["metric"],
        status=row.status,  # type: ignore[arg-type]  # the table's check allows no other
        error=row.error,
    )


def save_state(session: Session, row: ExperimentRow, found: Iterable[StepRow], became: Experiment) -> None:
    """Write what a transition changed."""
    for step_row in found:
        step = became.steps[step_row.name]
        step_row.status = step.status
        step_row.result = dict(step.result) if step.result is not None else None
        step_row.error = dict(step.error) if step.error is not None else None
    if row.status != became.status:
        row.status, row.error = became.status, dict(became.error) if became.error else None
        row.finished_at = now()
    session.flush()


def report(session: Session, experiment_id: str) -> ReportRow | None:
    """The experiment's report, once its variants are compared."""
    return session.get(ReportRow, experiment_id)


def save_report(session: Session, project_id: str, experiment_id: str, **columns: Any) -> None:
    """Write or replace the report."""
    row = {"project_id": project_id, "experiment_id": experiment_id, **columns}
    statement = insert(ReportRow).values(row)
    session.execute(statement.on_conflict_do_update(index_elements=["experiment_id"], set_=columns))


def add_evaluation(session: Session, row: Evaluation) -> None:
    """A new evaluation; its job must be sent in the same transaction."""
    session.add(row)
    session.flush()


def evaluation(session: Session, evaluation_id: str) -> Evaluation:
    """One evaluation."""
    found = session.get(Evaluation, evaluation_id)
    if found is None:
        raise EvaluationNotFound(f"There is no evaluation {evaluation_id!r} in this project.", param="evaluation_id")
    return found


def evaluations(
    session: Session, *, after: str | None, limit: int, experiment_id: str | None = None
) -> tuple[list[Evaluation], bool]:
    """Newest first, after the evaluation `after`; the flag says whether more follow."""
    order = (Evaluation.created_at, Evaluation.id)
    query = sa.select(Evaluation).order_by(*(column.desc() for column in order)).limit(limit + 1)
    if experiment_id is not None:
        query = query.where(Evaluation.experiment_id == experiment_id)
    if after is not None:
        last = evaluation(session, after)
        query = query.where(sa.tuple_(*order) < sa.tuple_(last.created_at, last.id))
    found = list(session.scalars(query))
    return found[:limit], len(found) > limit


def job(session: Session, job_id: str) -> Job:
    """The job of an evaluation: its state is the evaluation's."""
    return session.get_one(Job, job_id)


def save_summary(session: Session, evaluation_id: str, summary: Mapping[str, Any]) -> None:
    """Write what the answers add up to."""
    evaluation(session, evaluation_id).summary = dict(summary)
    session.flush()


def answered(session: Session, evaluation_id: str) -> set[str]:
    """The examples that have their answer."""
    return set(session.scalars(sa.select(Answer.example_id).where(Answer.evaluation_id == evaluation_id)))


def add_answers(session: Session, rows: list[dict[str, Any]]) -> int:
    """Store answers, one that is there already left as it is; answers the tokens that the new ones used."""
    added = insert(Answer).values(rows).on_conflict_do_nothing(index_elements=["evaluation_id", "example_id"])
    return sum(session.scalars(added.returning(Answer.prompt_tokens + Answer.completion_tokens)))


def answers(session: Session, evaluation_id: str) -> list[Answer]:
    """Every answer of an evaluation, by example id."""
    query = sa.select(Answer).where(Answer.evaluation_id == evaluation_id).order_by(Answer.example_id)
    return list(session.scalars(query))


def answers_page(session: Session, evaluation_id: str, *, after: str | None, limit: int) -> tuple[list[Answer], bool]:
    """Answers by example id, after the example `after`; the flag says whether more follow."""
    query = sa.select(Answer).where(Answer.evaluation_id == evaluation_id)
    if after is not None:
        query = query.where(Answer.example_id > after)
    found = list(session.scalars(query.order_by(Answer.example_id).limit(limit + 1)))
    return found[:limit], len(found) > limit


def record_look(session: Session, row: Evaluation, dataset_sha256: str) -> None:
    """Count that a test split is opened; a job that is tried again opens it once."""
    look: dict[str, Any] = {"evaluation_id": row.id, "project_id": row.project_id, "dataset_id": row.dataset_id}
    look |= {"dataset_sha256": dataset_sha256, "experiment_id": row.experiment_id}
    session.execute(insert(TestLook).values(look).on_conflict_do_nothing(index_elements=["evaluation_id"]))


def looks(session: Session, dataset_sha256: str) -> int:
    """How often this test split was opened: an experiment's evaluations open it together, any other by itself."""
    opened_by = sa.func.coalesce(TestLook.experiment_id, TestLook.evaluation_id)
    query = sa.select(sa.func.count(opened_by.distinct())).where(TestLook.dataset_sha256 == dataset_sha256)
    return session.scalars(query).one()


def _step(row: StepRow) -> Step:
    return Step(
        name=row.name,
        kind=row.kind,  # type: ignore[arg-type]  # written from a Step
        depends_on=tuple(row.depends_on),
        params=row.params,
        subject_id=row.subject_id,
        status=row.status,  # type: ignore[arg-type]  # the table's check allows no other
        result=row.result,
        error=row.error,
    )
