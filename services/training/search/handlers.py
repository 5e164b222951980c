"""Use cases of searches: begin one, and look at one whenever something happened to it."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from services.training import handlers as training
from services.training import held
from services.training.handlers import NewTrainingJob, StartPoint
from services.training.recipe import Recipe
from services.training.search import domain, repository, steering
from services.training.search.errors import NoValidationData, SearchNotSteerable
from services.training.search.space import Dimension, base_point, checked, default_space, trial_recipe
from services.training.search.tables import SearchRow, TrialRow
from services.training.search.wiring import SearchWiring
from services.training.settings import TrainingSettings
from shared import jobs, quotas
from shared.clock import now
from shared.errors import QuotaExceeded, UpliftError
from shared.files import release_blobs
from shared.ids import new_id
from shared.jobs import JobContext, JobHandler
from shared.jobs.context import JobInterrupted
from shared.messages import AdvanceSearch, Command, SteerSearch
from shared.prompt_format import PromptSpec
from shared.settings import Settings

_ALIVE = ("running", "paused")
_LOOK_SECONDS = 600.0
"""How long a look may work between two statements of its own: Optuna writes over a connection of its own, and
explaining many trials is not done in a moment."""


@dataclass(frozen=True)
class NewSearch:
    """What a client asks for. `base` carries what every trial shares; `space` is None for the default."""

    base: NewTrainingJob
    space: dict[str, dict[str, object]] | None
    trials: int
    minutes: float | None
    parallel: int
    pruning: bool
    seed: int


def create_search(session: Session, project_id: str, wanted: NewSearch, settings: TrainingSettings) -> SearchRow:
    """Check all that can be checked at once, then write the search and have a worker look at it."""
    base = wanted.base
    start = training.check_order(session, base, settings)
    _check_validation(session, base)
    continued = start.adapter_id is not None
    if wanted.space is None:
        space = default_space(base.recipe, continued=continued)
    else:
        space = checked(wanted.space, base.recipe, continued=continued)
    quotas.claim_training(session, project_id, settings, jobs=wanted.trials, together=wanted.parallel)
    quotas.check_storage(session, project_id, settings)
    row = SearchRow(id=new_id("search_"), project_id=project_id, status="running", pruning=wanted.pruning)
    row.base_model, row.init_adapter_id = start.base_model, start.adapter_id
    row.dataset_id, row.training_file, row.validation_file = base.dataset_id, base.training_file, base.validation_file
    row.prompt, row.max_passage_tokens = base.prompt.model_dump(mode="json"), base.max_passage_tokens
    row.recipe = base.recipe.model_dump(mode="json")
    row.space = {name: one.model_dump(mode="json") for name, one in space.items()}
    row.trials, row.minutes, row.parallel, row.seed = wanted.trials, wanted.minutes, wanted.parallel, wanted.seed
    row.suffix, row.metadata_, row.used_seconds = base.suffix, base.metadata, 0.0
    repository.add(session, row)
    held.hold_files(session, project_id, row.id, base.files)
    start_clock(session, row)
    return row


def start_clock(session: Session, row: SearchRow) -> None:
    """The search runs from now on: have it looked at, and again when its minutes are used up."""
    row.status, row.running_since = "running", now()
    jobs.send(session, row.project_id, SteerSearch(search_id=row.id), subject_id=row.id)
    _set_alarm(session, row)


def _set_alarm(session: Session, row: SearchRow) -> None:
    """Have the search looked at when its minutes, if it has any, are used up."""
    left = steering.budget(row).seconds_left
    if left is not None:
        alarm = SteerSearch(search_id=row.id)
        moment = now() + timedelta(seconds=left)
        row.alarm_id = jobs.send(session, row.project_id, alarm, subject_id=row.id, run_after=moment).id
    session.flush()


def cancel_search(session: Session, search_id: str) -> SearchRow:
    """End the search and cancel what runs; what is complete stays. SearchNotSteerable if it has ended."""
    row = repository.search(session, search_id, lock=True)
    if row.status not in _ALIVE:
        raise SearchNotSteerable(f"{search_id} is {row.status} already.", param="search_id")
    steering.end(session, row, "cancelled")
    for trial in repository.trials(session, search_id):
        if trial.status == "running":
            steering.stop(session, trial, steering.SEARCH_CANCELLED)
    session.flush()
    return row


def pause_search(session: Session, search_id: str) -> SearchRow:
    """Start nothing more and pause what runs, its state saved; the minutes stand still meanwhile."""
    row = repository.search(session, search_id, lock=True)
    if row.status != "running":
        raise SearchNotSteerable(f"{search_id} is {row.status}, not running.", param="search_id")
    steering.stop_clock(session, row)
    row.status = "paused"
    steering.each_running_job(session, search_id, jobs.pause)
    return row


def resume_search(session: Session, search_id: str) -> SearchRow:
    """Go on where the search was paused, its trials too."""
    row = repository.search(session, search_id, lock=True)
    if row.status != "paused":
        raise SearchNotSteerable(f"{search_id} is {row.status}, not paused.", param="search_id")
    steering.each_running_job(session, search_id, jobs.resume)
    start_clock(session, row)
    return row


def advance_search(context: JobContext, event: AdvanceSearch) -> None:
    """A trial's job ended."""
    if event.parent_id is not None:
        _look(context, event.parent_id)


def steer_search(context: JobContext, command: SteerSearch) -> None:
    """A trial was validated, the search began or goes on, or its minutes are used up."""
    _look(context, command.search_id)


def _look(context: JobContext, search_id: str) -> None:
    """Look at the search; what no attempt gets over ends it, for nobody would look again."""
    try:
        _look_at(context, search_id)
    except JobInterrupted:
        raise
    except Exception as error:
        certain = isinstance(error, UpliftError) and not error.retryable
        if certain or context.job.attempt >= context.job.max_attempts:
            _give_up(context, search_id, error)
        raise


def _give_up(context: JobContext, search_id: str, error: Exception) -> None:
    told: dict[str, Any] = {"code": "search_broke", "message": f"{type(error).__name__}: {error}", "param": None}
    if isinstance(error, UpliftError):
        told = {"code": error.code, "message": error.message, "param": error.param}
    with context.transaction() as session:
        row = repository.search(session, search_id, lock=True)
        if row.status in _ALIVE:
            steering.fail(session, row, told)


def _look_at(context: JobContext, search_id: str) -> None:
    """Bring the search up to what its trials' jobs say and do what is next; doing it again changes nothing."""
    wiring = context.wiring
    assert isinstance(wiring, SearchWiring), "the search worker is wired with SearchWiring"
    with context.transaction(idle_seconds=_LOOK_SECONDS) as session:
        row = repository.search(session, search_id, lock=True)
        trials = repository.trials(session, search_id)
        ran = steering.note_progress(session, trials)
        if row.status not in _ALIVE:
            _clear_up(session, row, trials, wiring)
            context.succeed(session, {"search_id": search_id, "status": row.status})
            return
        study = wiring.studies.open(_study_plan(row))
        behind = [trial for trial in ran if study.falls_behind(trial.number, trial.curve)]
        ended = [trial for trial in trials if trial.status != "running"]
        study.tell({trial.number: (steering.status(trial), trial.value) for trial in ended})
        if row.status == "running":
            if row.pruning:
                _prune(session, trials, behind)
            if context.job.id == row.alarm_id and not steering.budget(row).out_of_time:
                _set_alarm(session, row)  # it rang by the clock of another machine
            _carry_on(session, row, trials, study, wiring)
        context.succeed(session, {"search_id": search_id, "status": row.status})


def _clear_up(session: Session, row: SearchRow, trials: list[TrialRow], wiring: SearchWiring) -> None:
    """Let go of the files of a search that has ended, and of what the sampler remembers once its last trial has ended.

    All that is shown of a search lies in its own rows.
    """
    release_blobs(session, wiring.storage, row.project_id, held.let_go(session, row.id))
    if not any(trial.status == "running" for trial in trials):
        wiring.studies.delete(row.id)


def _carry_on(
    session: Session, row: SearchRow, trials: list[TrialRow], study: domain.Study, wiring: SearchWiring
) -> None:
    """Stop what falls behind, start what there is room for, end when the budget is used up."""
    budget = steering.budget(row)
    for trial in trials:
        if trial.status == "running" and budget.out_of_time:
            steering.stop(session, trial, steering.OUT_OF_TIME)
    statuses = [steering.status(trial) for trial in trials]
    for _ in range(domain.to_start(budget, statuses)):
        if not _may_start(session, row, statuses, wiring.settings):
            break
        point = study.ask({trial.number for trial in trials})
        trials.append(_start(session, row, point))
        statuses.append("running")
    if domain.over(budget, statuses):
        steering.finish(session, row, trials)
        row.importance = study.explain(steering.observations(trials))


def _may_start(session: Session, row: SearchRow, statuses: list[domain.TrialStatus], settings: Settings) -> bool:
    """Whether the project's quota lets one more trial begin; QuotaExceeded where no end of a trial would ask again."""
    try:
        quotas.claim_training(session, row.project_id, settings)
    except QuotaExceeded:
        if "running" not in statuses:
            raise
        return False
    return True


def _prune(session: Session, trials: list[TrialRow], behind: list[TrialRow]) -> None:
    """Stop the trials that fell behind, once enough others came to their end."""
    if not domain.ready_to_compare([steering.status(trial) for trial in trials]):
        return
    for trial in behind:
        if trial.status == "running":
            steering.stop(session, trial, steering.fell_behind(trial))


def _start(session: Session, row: SearchRow, point: domain.Point) -> TrialRow:
    """An ordinary fine-tuning job for one point; its end comes back as AdvanceSearch."""
    recipe = trial_recipe(Recipe.model_validate(row.recipe), point.params)
    trial = TrialRow(id=new_id("trial_"), project_id=row.project_id, search_id=row.id, number=point.number)
    order = NewTrainingJob(
        model=row.base_model,
        dataset_id=row.dataset_id,
        training_file=row.training_file,
        validation_file=row.validation_file,
        recipe=recipe,
        auto=[],
        suffix=row.suffix,
        metadata=row.metadata_ | {"search": row.id, "trial": str(point.number)},
        prompt=PromptSpec.model_validate(row.prompt),
        max_passage_tokens=row.max_passage_tokens,
        init_adapter=None,
    )
    start = StartPoint(row.base_model, row.init_adapter_id)
    _, job = training.add_training_job(
        session, row.project_id, order, start, held_by=row.id, parent_id=row.id, notify=AdvanceSearch
    )
    trial.job_id, trial.params, trial.status, trial.curve = job.id, point.params, "running", []
    repository.add(session, trial)
    return trial


def _study_plan(row: SearchRow) -> domain.StudyPlan:
    space = {name: Dimension.model_validate(one) for name, one in row.space.items()}
    first = base_point(space, Recipe.model_validate(row.recipe))
    return domain.StudyPlan(search_id=row.id, space=space, first=first, trials=row.trials, seed=row.seed)


def _check_validation(session: Session, base: NewTrainingJob) -> None:
    held_out = base.recipe.objective == "continued_pretraining" and base.recipe.validation_share > 0
    if base.validation_file is not None or held_out:
        return
    if base.dataset_id is None:
        raise NoValidationData(
            "A search chooses by validation loss: give a validation_file too, or a dataset with a validation split.",
            param="validation_file",
        )
    if not repository.has_validation(session, base.dataset_id):
        raise NoValidationData(
            f"Dataset {base.dataset_id} has no validation examples to choose by; give a validation_file.",
            param="dataset",
        )


JOB_HANDLERS: dict[type[Command], JobHandler] = {AdvanceSearch: advance_search, SteerSearch: steer_search}
