"""`/searches`: look for the best recipe by validation loss; every trial is an ordinary fine-tuning job."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from sqlalchemy.orm import Session

from services.training.handlers import NewTrainingJob
from services.training.hyperparameters import planned
from services.training.recipe import Recipe
from services.training.search import handlers, repository
from services.training.search.answers import SearchObject, SearchReport, TrialObject
from services.training.search.objects import search_object, trial_object
from services.training.search.report.render import report_object, to_html, to_markdown
from services.training.search.schemas import CreateSearch
from services.training.search.tables import SearchRow
from services.training.settings import TrainingSettings
from shared.answers import Page, answering
from shared.errors import InvalidInput
from shared.web import Caller, caller, page, wiring
from shared.wiring import Wiring

router = APIRouter(prefix="/searches", tags=["searches"])
Who = Annotated[Caller, Depends(caller)]
Parts = Annotated[Wiring, Depends(wiring)]
_PAGE_POLICY = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}
"""Text and pictures: nothing in it may run."""
Limit = Annotated[int, Query(ge=1, le=100)]


@router.post("", responses=answering(SearchObject))
def create_search(body: CreateSearch, who: Who, parts: Parts) -> dict[str, Any]:
    """Search for the recipe with the lowest validation loss.

    The base recipe is tried first, then what Optuna's TPE sampler proposes from all trials before. Every trial is a
    fine-tuning job; what it scores is the lowest validation loss of its run. The test split is never looked at.
    """
    with parts.database.transaction(who.project_id) as session:
        row = handlers.create_search(session, who.project_id, _wanted(body), TrainingSettings())
        session.refresh(row)
        return search_object(row, [])


@router.get("", responses=answering(Page[SearchObject]))
def list_searches(who: Who, parts: Parts, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
    """The project's searches, newest first."""
    with parts.database.transaction(who.project_id) as session:
        found, more = repository.searches(session, after=after, limit=limit)
        return page([_object(session, row) for row in found], has_more=more)


@router.get("/{search_id}", responses=answering(SearchObject))
def show_search(search_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """One search, with the best recipe so far."""
    with parts.database.transaction(who.project_id) as session:
        return _object(session, repository.search(session, search_id))


@router.post("/{search_id}/cancel", responses=answering(SearchObject))
def cancel_search(search_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """End the search and cancel the trials that run; what is complete stays."""
    with parts.database.transaction(who.project_id) as session:
        return _object(session, handlers.cancel_search(session, search_id))


@router.post("/{search_id}/pause", responses=answering(SearchObject))
def pause_search(search_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Pause: nothing more starts, trials that run save their state first, and the minutes stand still."""
    with parts.database.transaction(who.project_id) as session:
        return _object(session, handlers.pause_search(session, search_id))


@router.post("/{search_id}/resume", responses=answering(SearchObject))
def resume_search(search_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Go on where the search was paused."""
    with parts.database.transaction(who.project_id) as session:
        return _object(session, handlers.resume_search(session, search_id))


@router.get("/{search_id}/trials", responses=answering(Page[TrialObject]))
def list_trials(
    search_id: str,
    who: Who,
    parts: Parts,
    after: str | None = None,
    limit: Limit = 20,
    order: Literal["asc", "desc"] = "asc",
) -> dict[str, Any]:
    """The search's trials, in the order they began."""
    with parts.database.transaction(who.project_id) as session:
        repository.search(session, search_id)
        found, more = repository.trials_page(session, search_id, after=after, limit=limit, descending=order == "desc")
        states = repository.states(session, found)
        return page([trial_object(trial, states.get(trial.job_id)) for trial in found], has_more=more)


@router.get("/{search_id}/report", responses=answering(SearchReport))
def show_report(search_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """What was tried, what matters and where it is too weak, right, too strong.

    There while the search runs, too; what matters is told when it has ended.
    """
    return _report(search_id, who, parts)


@router.get("/{search_id}/report.md")
def show_markdown(search_id: str, who: Who, parts: Parts) -> Response:
    """The report as Markdown."""
    return Response(to_markdown(_report(search_id, who, parts)), media_type="text/markdown; charset=utf-8")


@router.get("/{search_id}/report.html")
def show_page(search_id: str, who: Who, parts: Parts) -> Response:
    """The report as one self-contained page, with the importances and every parameter's path as pictures."""
    content = to_html(_report(search_id, who, parts))
    return Response(content, media_type="text/html; charset=utf-8", headers=_PAGE_POLICY)


def _report(search_id: str, who: Caller, parts: Wiring) -> dict[str, Any]:
    with parts.database.transaction(who.project_id) as session:
        row = repository.search(session, search_id)
        trials = repository.trials(session, search_id)
        return report_object(search_object(row, trials), [trial_object(trial, None) for trial in trials])


def _object(session: Session, row: SearchRow) -> dict[str, Any]:
    return search_object(row, repository.trials(session, row.id))


def _wanted(body: CreateSearch) -> handlers.NewSearch:
    dataset, training_file = body.dataset, body.training_file
    if training_file is not None and training_file.startswith("ds_"):
        dataset, training_file = dataset or training_file, None
    if (dataset is None) == (training_file is None):
        raise InvalidInput("Give a training_file or a dataset, one of the two.", param="training_file")
    # what a job would choose from its data is fixed here: a search needs a base in numbers
    recipe, _ = planned(Recipe.wanted(body.recipe), {})
    base = NewTrainingJob(
        model=body.model,
        dataset_id=dataset,
        training_file=training_file,
        validation_file=body.validation_file,
        recipe=recipe.model_copy(update={"seed": body.seed}),
        auto=[],
        suffix=body.suffix,
        metadata=body.metadata,
        prompt=body.prompt,
        max_passage_tokens=body.max_passage_tokens,
        init_adapter=None,
    )
    space = {name: one.model_dump() for name, one in body.space.items()} if body.space is not None else None
    return handlers.NewSearch(
        base=base,
        space=space,
        trials=body.trials,
        minutes=body.minutes,
        parallel=body.parallel,
        pruning=body.pruning,
        seed=body.seed,
    )
