"""Experiments and evaluations over HTTP: order, watch, cancel, read the report and the answers."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from sqlalchemy.orm import Session

from services.evaluation import handlers, material, repository
from services.evaluation.answers import (
    EvaluationAnswer,
    EvaluationObject,
    ExperimentObject,
    ExperimentWithSteps,
)
from services.evaluation.errors import ReportNotReady
from services.evaluation.handlers import SingleEvaluation
from services.evaluation.report_answers import ExperimentReport
from services.evaluation.schemas import (
    CreateEvaluation,
    CreateExperiment,
    answer_object,
    evaluation_object,
    experiment_object,
    step_object,
)
from services.evaluation.tables import ExperimentRow
from shared.answers import Page, answering
from shared.errors import NotFound
from shared.web import Caller, caller, page, wiring
from shared.wiring import Wiring

router = APIRouter(tags=["evaluation"])
Who = Annotated[Caller, Depends(caller)]
Parts = Annotated[Wiring, Depends(wiring)]
Limit = Annotated[int, Query(ge=1, le=100)]
_PAGE_POLICY = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"}
"""A report is text and pictures: whatever a model wrote into it, nothing in it may run."""


@router.post("/experiments", responses=answering(ExperimentWithSteps))
def create_experiment(body: CreateExperiment, who: Who, parts: Parts) -> dict[str, Any]:
    """Start comparing variants on the dataset; the answer has every step."""
    with parts.database.transaction(who.project_id) as session:
        spec = body.to_spec(material.dataset(session, body.dataset).name)
        return _with_steps(session, handlers.create_experiment(session, who.project_id, spec, parts.settings))


@router.get("/experiments", responses=answering(Page[ExperimentObject]))
def list_experiments(who: Who, parts: Parts, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
    """The project's experiments, newest first, without their steps."""
    with parts.database.transaction(who.project_id) as session:
        found, more = repository.experiments(session, after=after, limit=limit)
        return page([experiment_object(row) for row in found], has_more=more)


@router.get("/experiments/{experiment_id}", responses=answering(ExperimentWithSteps))
def show_experiment(experiment_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """One experiment with every step and how far its job is."""
    with parts.database.transaction(who.project_id) as session:
        return _with_steps(session, repository.experiment(session, experiment_id))


@router.post("/experiments/{experiment_id}/cancel", responses=answering(ExperimentWithSteps))
def cancel_experiment(experiment_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Stop it and the jobs it waits for; what was measured is kept."""
    with parts.database.transaction(who.project_id) as session:
        return _with_steps(session, handlers.cancel_experiment(session, experiment_id))


@router.get("/experiments/{experiment_id}/report", responses=answering(ExperimentReport))
def show_report(experiment_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """The report as JSON."""
    with parts.database.transaction(who.project_id) as session:
        row = repository.experiment(session, experiment_id)
        found = repository.report(session, experiment_id)
        if found is None:
            raise _not_ready(row)
        return found.report


@router.get("/experiments/{experiment_id}/report.md")
def show_markdown(experiment_id: str, who: Who, parts: Parts) -> Response:
    """The report as Markdown."""
    return Response(_rendered(parts, who, experiment_id, "markdown_key"), media_type="text/markdown; charset=utf-8")


@router.get("/experiments/{experiment_id}/report.html")
def show_page(experiment_id: str, who: Who, parts: Parts) -> Response:
    """The report as one self-contained page."""
    content = _rendered(parts, who, experiment_id, "html_key")
    return Response(content, media_type="text/html; charset=utf-8", headers=_PAGE_POLICY)


@router.post("/evaluations", responses=answering(EvaluationObject))
def create_evaluation(body: CreateEvaluation, who: Who, parts: Parts) -> dict[str, Any]:
    """Evaluate one model on one split."""
    with parts.database.transaction(who.project_id) as session:
        variant = material.variant(session, id=body.variant, model=body.model)
        if variant is None and body.variant is not None:
            raise NotFound(f"There is no variant {body.variant!r} in this project.", param="variant")
        order = SingleEvaluation(
            model=variant["model_id"] if variant else str(body.model),
            variant_id=variant["id"] if variant else None,
            dataset_id=body.dataset,
            split=body.split,
            metric=body.metric,
            limit=body.limit,
            seed=body.seed,
            max_tokens=body.max_tokens,
        )
        row = handlers.create_evaluation(session, who.project_id, order, parts.settings)
        return evaluation_object(row, repository.job(session, row.job_id))


@router.get("/evaluations", responses=answering(Page[EvaluationObject]))
def list_evaluations(
    who: Who, parts: Parts, after: str | None = None, limit: Limit = 20, experiment: str | None = None
) -> dict[str, Any]:
    """The project's evaluations, newest first; those of one experiment where it is named."""
    with parts.database.transaction(who.project_id) as session:
        found, more = repository.evaluations(session, after=after, limit=limit, experiment_id=experiment)
        jobs = repository.jobs_by_id(session, [row.job_id for row in found])
        return page([evaluation_object(row, jobs[row.job_id]) for row in found], has_more=more)


@router.get("/evaluations/{evaluation_id}", responses=answering(EvaluationObject))
def show_evaluation(evaluation_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """One evaluation: its state, progress and what its answers add up to."""
    with parts.database.transaction(who.project_id) as session:
        row = repository.evaluation(session, evaluation_id)
        return evaluation_object(row, repository.job(session, row.job_id))


@router.get("/evaluations/{evaluation_id}/answers", responses=answering(Page[EvaluationAnswer]))
def list_answers(
    evaluation_id: str, who: Who, parts: Parts, after: str | None = None, limit: Limit = 20
) -> dict[str, Any]:
    """Every answer with its scores, by example id."""
    with parts.database.transaction(who.project_id) as session:
        row = repository.evaluation(session, evaluation_id)
        found, more = repository.answers_page(session, row.id, after=after, limit=limit)
        asked = material.examples_by_id(session, [answer.example_id for answer in found])
        items = []
        for answer in found:
            example = asked.get(answer.example_id)
            items.append(answer_object(answer, example.question if example else "", example.answer if example else ""))
        return page(items, has_more=more)


def _with_steps(session: Session, row: ExperimentRow) -> dict[str, Any]:
    found = repository.steps(session, row.id)
    jobs = repository.jobs_by_id(session, [step.job_id for step in found if step.job_id])
    return experiment_object(row) | {"steps": [step_object(step, jobs.get(step.job_id or "")) for step in found]}


def _rendered(parts: Wiring, who: Caller, experiment_id: str, which: str) -> bytes:
    with parts.database.transaction(who.project_id) as session:
        row = repository.experiment(session, experiment_id)
        found = repository.report(session, experiment_id)
        key: str | None = getattr(found, which) if found else None
        if key is None:
            raise _not_ready(row)
    with parts.storage.open(who.project_id, key) as stream:
        return stream.read()


def _not_ready(row: ExperimentRow) -> ReportNotReady:
    return ReportNotReady(f"Experiment {row.id} is {row.status} and has no report yet.", param="experiment_id")
