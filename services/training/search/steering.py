"""What a look at a search does to its trials: note what their jobs say, stop one, end the search."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast

from sqlalchemy.orm import Session

from services.training import handlers as training
from services.training.search import domain, repository
from services.training.search.tables import SearchRow, TrialRow
from shared import jobs
from shared.clock import now
from shared.jobs import TERMINAL, Job
from shared.jobs.control import JobAlreadyEnded
from shared.messages import SteerSearch

OUT_OF_TIME = {"code": "out_of_time", "message": "The search's minutes were used up before this trial ended."}
SEARCH_CANCELLED = {"code": "search_cancelled", "message": "The search was cancelled."}
_NEVER_VALIDATED = {
    "code": "never_validated",
    "message": "Its run measured no validation loss: is any validation example at most max_length tokens long?",
}
_BY_HAND = {"code": "cancelled", "message": "The trial's job was cancelled."}


def budget(row: SearchRow) -> domain.Budget:
    """What is left of a search's budget at this moment."""
    stretch = (now() - row.running_since).total_seconds() if row.running_since is not None else 0.0
    seconds = None if row.minutes is None else 60 * row.minutes
    return domain.Budget(row.trials, row.parallel, seconds, row.used_seconds + stretch)


def status(trial: TrialRow) -> domain.TrialStatus:
    return cast(domain.TrialStatus, trial.status)  # the table's check allows no other


def note_progress(session: Session, trials: Sequence[TrialRow]) -> list[TrialRow]:
    """Write down what the running trials' jobs have measured since, and which have ended, and how; answers them."""
    running = [trial for trial in trials if trial.status == "running"]
    found = repository.states(session, running)
    for trial in running:
        trial.curve = repository.validations(session, trial.job_id)
        losses = [point["valid_loss"] for point in trial.curve]
        trial.value = min(losses, default=None)
        if found[trial.job_id].status in TERMINAL:
            _end(trial, found[trial.job_id])
    session.flush()
    return running


def stop(session: Session, trial: TrialRow, reason: dict[str, Any]) -> None:
    """Cancel a running trial's job; how it ended is noted when it has. One that was stopped before stays so."""
    if trial.reason is not None:
        return
    trial.reason = reason
    with suppress(JobAlreadyEnded):  # then its end is on the way to us, and counts as it is
        training.cancel_job(session, trial.job_id, why=reason["message"])
    session.flush()


def fell_behind(trial: TrialRow) -> dict[str, Any]:
    """Why a trial is pruned, in words for whoever reads its job's events."""
    last = trial.curve[-1]
    at = domain.percent(last["step"], last["total_steps"])
    message = (
        f"Pruned after step {last['step']} of {last['total_steps']}: with a validation loss of {trial.value:.4f} at "
        f"{at} % of its run it is not among the better half of the search's trials."
    )
    return {"code": "pruned", "message": message}


def each_running_job(session: Session, search_id: str, steer: Callable[[Session, str], Job]) -> None:
    """Pause or resume the jobs of all running trials; one that just ended is heard of in its own time."""
    for trial in repository.trials(session, search_id):
        if trial.status == "running":
            with suppress(JobAlreadyEnded):
                steer(session, trial.job_id)


def fail(session: Session, row: SearchRow, error: dict[str, Any]) -> None:
    """End the search for a reason of its own, and what it runs."""
    row.error = error
    end(session, row, "failed")
    for trial in repository.trials(session, row.id):
        if trial.status == "running":
            stop(session, trial, {"code": error["code"], "message": f"The search failed: {error['message']}"})
    session.flush()


def finish(session: Session, row: SearchRow, trials: Sequence[TrialRow]) -> None:
    """The budget is used up and nothing runs."""
    complete = any(trial.status == "complete" for trial in trials)
    if not complete:
        reasons = [trial.reason["message"] for trial in trials if trial.reason]
        told = f" The first trial's: {reasons[0]}" if reasons else ""
        row.error = {"code": "no_trial_completed", "message": f"No trial came to its end.{told}", "param": None}
    end(session, row, "succeeded" if complete else "failed")


def end(session: Session, row: SearchRow, status: domain.SearchStatus) -> None:
    """The search has ended; a last look clears up behind it, once nothing of it runs any more."""
    stop_clock(session, row)
    row.status, row.finished_at = status, now()
    jobs.send(session, row.project_id, SteerSearch(search_id=row.id), subject_id=row.id)
    session.flush()


def observations(trials: Sequence[TrialRow]) -> list[domain.Observation]:
    """What the complete trials have measured, each where its validation loss was lowest."""
    found = []
    for trial in trials:
        if trial.status == "complete" and trial.curve:
            best = min(trial.curve, key=lambda point: float(point["valid_loss"]))
            found.append(domain.Observation(trial.params, best["valid_loss"], best["train_loss"]))
    return found


def stop_clock(session: Session, row: SearchRow) -> None:
    """Count the present stretch and take back the alarm for the end of the minutes."""
    row.used_seconds, row.running_since = budget(row).used, None
    if row.alarm_id is not None:
        alarm, row.alarm_id = row.alarm_id, None
        # its own look holds the alarm first and then the search: who holds the search must not wait for the alarm
        if repository.lock_waiting(session, alarm):
            jobs.cancel(session, alarm)


def _end(trial: TrialRow, job: repository.JobState) -> None:
    trial.finished_at = job.finished_at
    if job.status == "succeeded":
        trial.model_id = (job.result or {}).get("model_id")
        measured = trial.value is not None
        trial.status, trial.reason = ("complete", None) if measured else ("failed", _NEVER_VALIDATED)
    elif job.status == "failed":
        trial.status, trial.reason = "failed", dict(job.error or {})
    else:
        trial.reason = trial.reason or _BY_HAND
        trial.status = "pruned" if trial.reason["code"] == "pruned" else "stopped"
