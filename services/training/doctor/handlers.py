"""Use cases of the doctor: diagnose a job, start it again with a remedy, or on less data for a learning curve."""

from typing import Any

from sqlalchemy.orm import Session

from services.training import repository
from services.training.doctor import repository as records
from services.training.doctor.diagnosis import diagnose
from services.training.doctor.errors import HyperparametersNotChosen, NothingToRemedy
from services.training.doctor.schemas import diagnosis_object, remedy_object
from services.training.handlers import NewTrainingJob, create_fine_tuning_job
from services.training.recipe import Recipe
from services.training.settings import TrainingSettings
from services.training.tables import TrainingJob
from shared.jobs.tables import Job
from shared.prompt_format import PromptSpec

_MOST_EPOCHS = 1000.0
SHARES = (0.25, 0.5)
"""Shares of a job's examples whose runs, with its own, make a learning curve of three sizes."""


def diagnosis_of(session: Session, job_id: str) -> dict[str, Any]:
    """The job's diagnosis, computed from what it recorded; remedies that were started stand beside it, re-scored."""
    row, job = repository.get_job(session, job_id)
    own = records.validation_examples(session, job_id)
    tried = [
        remedy_object(
            other.id,
            other_job.status,
            note,
            records.facts(session, other, other_job),
            comparable=records.validation_examples(session, other.id) == own,
        )
        for note, other, other_job in records.remedies(session, job_id)
    ]
    return diagnosis_object(row.id, job.status, records.facts(session, row, job), tried)


def start_remedy(
    session: Session, project_id: str, job_id: str, verdict: str | None, settings: TrainingSettings
) -> tuple[TrainingJob, Job]:
    """A new job on the same data with the finding's recipe difference; both jobs' events name each other."""
    row, job = repository.get_job(session, job_id)
    findings = diagnose(records.facts(session, row, job)).findings
    finding = next((found for found in findings if verdict in (None, found.verdict)), None)
    if finding is None:
        there = ", ".join(found.verdict for found in findings) or "nothing"
        raise NothingToRemedy(f"The diagnosis of {job_id} finds {there}, not {verdict or 'a fault'}.", param="verdict")
    changes = dict(finding.remedy)
    made, order = _again(session, project_id, row, changes, settings)
    note = {"remedy": made.id, "verdict": finding.verdict, "recipe": changes}
    repository.add_event(session, project_id, row.id, f"Remedy for {finding.verdict} started: {made.id}", data=note)
    said = f"Started as the remedy for {finding.verdict} in {row.id}"
    repository.add_event(session, project_id, made.id, said, data={"remedy_of": row.id, "changes": changes})
    return made, order


def start_learning_curve(
    session: Session, project_id: str, job_id: str, settings: TrainingSettings
) -> list[tuple[TrainingJob, Job]]:
    """The job again on smaller shares of its examples, so that its diagnosis can forecast what more would bring."""
    row, _ = repository.get_job(session, job_id)
    if row.auto:
        raise HyperparametersNotChosen(
            f"{job_id} has not read its data yet, from which it chooses {', '.join(row.auto)}, and the smaller runs "
            "have to take the same. Ask again once it has started, or give these in the recipe.",
            param="fine_tuning_job_id",
        )
    recipe, started = Recipe.model_validate(row.recipe), []
    for share in SHARES:
        # as many steps as the job takes, so that the sizes differ in nothing but their examples
        changes = {"train_share": share * recipe.train_share, "epochs": min(_MOST_EPOCHS, recipe.epochs / share)}
        made, order = _again(session, project_id, row, changes, settings)
        note = {"learning_curve": made.id, "train_share": made.recipe["train_share"]}
        said = f"Training on {share:.0%} of the examples started, for the learning curve: {made.id}"
        repository.add_event(session, project_id, row.id, said, data=note)
        started.append((made, order))
    return started


def _again(
    session: Session, project_id: str, row: TrainingJob, changes: dict[str, Any], settings: TrainingSettings
) -> tuple[TrainingJob, Job]:
    """A new job as this one, with these recipe fields changed, in the same budget of time and of memory."""
    pieces = {} if row.micro_batch_tokens is None else {"micro_batch_tokens": row.micro_batch_tokens}
    wanted = NewTrainingJob(
        model=records.start_model(session, row),
        dataset_id=row.dataset_id,
        training_file=row.training_file,
        validation_file=row.validation_file,
        recipe=Recipe.from_differences(row.recipe | pieces | changes),
        auto=[],
        suffix=row.suffix,
        metadata=row.metadata_,
        prompt=PromptSpec.model_validate(row.prompt),
        max_passage_tokens=row.max_passage_tokens,
        init_adapter=None,
        replay_file=row.replay_file,
        max_minutes=row.max_minutes,
    )
    return create_fine_tuning_job(session, project_id, wanted, settings)
