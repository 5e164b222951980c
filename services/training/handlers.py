"""Use cases of training: create a fine-tuning job, and run one from its rows to a stored adapter."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from services.training import held, repository
from services.training.errors import FineTuningUnsupported, InvalidRecipe, JobNotPausable, JobNotResumable, wrong_start
from services.training.quantisation import check_quantisation
from services.training.recipe import Recipe
from services.training.rendering import model_folder
from services.training.settings import TrainingSettings
from services.training.tables import TrainingJob
from services.training.training_run import TrainingRun
from shared import jobs, quotas
from shared.errors import InvalidInput
from shared.files import release_blobs
from shared.ids import new_id
from shared.jobs.context import JobContext
from shared.jobs.tables import Job
from shared.messages import DeleteWeights, OrderTraining, ReleaseTraining, TrainAdapter
from shared.prompt_format import PromptSpec


@dataclass(frozen=True)
class NewTrainingJob:
    """What a client asks for. Exactly one of `dataset_id` and `training_file`; `model` may be an adapter's id."""

    model: str
    dataset_id: str | None
    training_file: str | None
    validation_file: str | None
    recipe: Recipe
    auto: list[str]
    suffix: str | None
    metadata: dict[str, str]
    prompt: PromptSpec
    max_passage_tokens: int | None
    init_adapter: str | None
    replay_file: str | None = None
    max_minutes: float | None = None

    @property
    def files(self) -> dict[str, str | None]:
        """What it learns from beside a dataset, by the field that names it."""
        names = ("training_file", "validation_file", "replay_file")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class StartPoint:
    """The weights that training begins with: a base model and, to continue from, the id of an adapter or checkpoint."""

    base_model: str
    adapter_id: str | None


def create_fine_tuning_job(
    session: Session, project_id: str, wanted: NewTrainingJob, settings: TrainingSettings
) -> tuple[TrainingJob, Job]:
    """Check what can be checked at once, then write the job and its order in one transaction."""
    start = check_order(session, wanted, settings)
    quotas.claim_training(session, project_id, settings)
    quotas.check_storage(session, project_id, settings)
    return add_training_job(session, project_id, wanted, start)


def check_order(session: Session, wanted: NewTrainingJob, settings: TrainingSettings) -> StartPoint:
    """Refuse what cannot be trained: models, files and datasets that are not there or do not fit."""
    start = _start_point(session, wanted)
    _check_start(session, start.adapter_id, wanted.recipe)
    if settings.models_dir.is_dir():  # a gateway apart from the workers has no models to look at, nor their libraries
        model_folder(settings.models_dir, start.base_model)
        if wanted.recipe.tune == "qlora":
            check_quantisation()
    _check_source(session, wanted)
    return start


def add_training_job(
    session: Session,
    project_id: str,
    wanted: NewTrainingJob,
    start: StartPoint,
    *,
    held_by: str | None = None,
    **sending: Any,
) -> tuple[TrainingJob, Job]:
    """The job's row and its order; from now on it holds its files, which may be gone but for what `held_by` holds.

    `sending` goes to `jobs.send`, for those who want to hear of its end.
    """
    job_id = new_id("ftjob-")
    command = TrainAdapter(training_job_id=job_id)
    job = jobs.send(session, project_id, command, job_id=job_id, subject_id=job_id, **sending)
    repository.add_event(session, project_id, job_id, f"Created fine-tuning job: {job_id}")
    row = TrainingJob(
        id=job.id,
        project_id=project_id,
        base_model=start.base_model,
        dataset_id=wanted.dataset_id,
        training_file=wanted.training_file,
        validation_file=wanted.validation_file,
        replay_file=wanted.replay_file,
        recipe=wanted.recipe.model_dump(mode="json"),
        auto=wanted.auto,
        seed=wanted.recipe.seed,
        suffix=wanted.suffix,
        init_adapter_id=start.adapter_id,
        prompt=wanted.prompt.model_dump(mode="json"),
        max_passage_tokens=wanted.max_passage_tokens,
        metadata_=wanted.metadata,
        max_minutes=wanted.max_minutes,
    )
    repository.add(session, row)
    if held_by is None:
        held.hold_files(session, project_id, job_id, wanted.files)
    else:
        held.share(session, held_by, job_id)
    return row, job


def cancel_job(session: Session, job_id: str, *, why: str | None = None) -> None:
    """Cancel: waiting or paused work ends here, running work at its next check. The job's events say so, and `why`."""
    row, _ = repository.get_job(session, job_id)
    if why is not None:
        repository.add_event(session, row.project_id, job_id, f"Stopping: {why}")
    jobs.cancel(session, job_id)


def pause_job(session: Session, job_id: str) -> None:
    """Pause: waiting work at once, running work once its state is saved. JobNotPausable if it is paused already."""
    repository.get_job(session, job_id)
    if jobs.get(session, job_id, lock=True).status == "paused":
        raise JobNotPausable(f"{job_id} is paused already; resume it or cancel it.", param="fine_tuning_job_id")
    jobs.pause(session, job_id)


def resume_job(session: Session, job_id: str) -> None:
    """Queue a paused job again, or take back a pause that it has not heard yet; JobNotResumable for any other."""
    repository.get_job(session, job_id)
    job = jobs.get(session, job_id, lock=True)
    if job.status in {"queued", "running"} and not job.pause_requested:
        raise JobNotResumable(f"{job_id} is {job.status}, not paused.", param="fine_tuning_job_id")
    jobs.resume(session, job_id)


def order_training(context: JobContext, command: OrderTraining) -> None:
    """Another service's order: write the training job's row under this job's id, then train it."""
    with context.transaction() as session:
        if repository.find_job(session, context.job.id) is None:
            repository.add(session, _row_of(context, session, command))
    TrainingRun(context, context.job.id).run()


def train_adapter(context: JobContext, command: TrainAdapter) -> None:
    """Train what the row describes."""
    TrainingRun(context, command.training_job_id).run()


def delete_weights(context: JobContext, command: DeleteWeights) -> None:
    """Forget an adapter or a checkpoint; its bytes go if nothing else of the project has the same."""
    with context.transaction() as session:
        keys = repository.delete_weights(session, command.weights_id)
        release_blobs(session, context.wiring.storage, context.project_id, keys)
        context.succeed(session, {"deleted": bool(keys)})


def release_training(context: JobContext, command: ReleaseTraining) -> None:
    """Let go of what the ended job still holds, however it ended."""
    with context.transaction() as session:
        keys = held.let_go(session, command.training_job_id)
        release_blobs(session, context.wiring.storage, context.project_id, keys)
        context.succeed(session, {"training_job_id": command.training_job_id})


def _row_of(context: JobContext, session: Session, command: OrderTraining) -> TrainingJob:
    recipe = Recipe.wanted(command.recipe)
    _check_replay(recipe, None)
    if recipe.objective != "supervised":
        raise InvalidRecipe("A dataset holds answers, no preferences: train it supervised.", param="recipe.objective")
    repository.check_dataset(session, command.dataset_id)
    if command.init_adapter_id is not None:
        _check_start(session, repository.adapter(session, command.init_adapter_id).id, recipe)
    return TrainingJob(
        id=context.job.id,
        project_id=context.project_id,
        base_model=command.base_model,
        dataset_id=command.dataset_id,
        recipe=recipe.model_copy(update={"seed": command.seed}).model_dump(mode="json"),
        auto=[],
        seed=command.seed,
        suffix=command.suffix,
        init_adapter_id=command.init_adapter_id,
        prompt=PromptSpec.model_validate(command.prompt).model_dump(mode="json"),
        max_passage_tokens=command.max_passage_tokens,
        metadata_={},
    )


def _start_point(session: Session, wanted: NewTrainingJob) -> StartPoint:
    """Base model and weights to go on from: a fine-tuned model or checkpoint as `model` means its base and itself."""
    tuned = repository.find_start(session, wanted.model)
    if wanted.init_adapter is not None:
        start = repository.adapter(session, wanted.init_adapter)
        base = tuned.base_model if tuned else wanted.model
        if start.base_model != base:
            raise InvalidInput(
                f"The adapter {wanted.init_adapter} belongs to {start.base_model}, not to {base}.",
                param="init_adapter",
            )
        return StartPoint(base, start.id)
    return StartPoint(tuned.base_model, tuned.id) if tuned else StartPoint(wanted.model, None)


def _check_start(session: Session, adapter_id: str | None, recipe: Recipe) -> None:
    """Hold the weights that are gone on from.

    AdapterMismatch where an adapter would be trained from a whole model's weights, or a whole model from one's.
    """
    if adapter_id is None:
        return
    repository.hold_start(session, adapter_id)
    if (repository.tune_of(session, adapter_id) == "full") != (recipe.tune == "full"):
        raise wrong_start(recipe.tune)


def _check_source(session: Session, wanted: NewTrainingJob) -> None:
    _check_replay(wanted.recipe, wanted.replay_file)
    if wanted.dataset_id is not None:
        repository.check_dataset(session, wanted.dataset_id)
        if wanted.recipe.objective == "dpo":
            raise FineTuningUnsupported(
                "A dataset holds answers, no preferences: give `dpo` a training_file of preference rows.",
                param="training_file",
            )
        if wanted.recipe.objective == "continued_pretraining":
            raise FineTuningUnsupported(
                "A dataset holds questions with answers, no documents: give `continued_pretraining` a vector store "
                "(vs_…) or a file of `text` rows as training_file.",
                param="training_file",
            )
    if wanted.replay_file is not None:
        repository.training_file(session, wanted.replay_file, param="replay_file")
    for param, source in (("training_file", wanted.training_file), ("validation_file", wanted.validation_file)):
        if source is not None:
            _check_file(session, source, wanted.recipe, param)


def _check_replay(recipe: Recipe, replay_file: str | None) -> None:
    """InvalidRecipe or InvalidInput where a file to replay and the share to replay of it are not both given."""
    if recipe.replay_ratio and replay_file is None:
        raise InvalidRecipe(
            "replay_ratio says how much of each batch is replayed, but there is no replay_file to draw from.",
            param="recipe.replay_ratio",
        )
    if replay_file is not None and not recipe.replay_ratio:
        raise InvalidInput(
            "Nothing of replay_file would be read: set the recipe's replay_ratio, for example to 0.1.",
            param="replay_file",
        )


def _check_file(session: Session, source: str, recipe: Recipe, param: str) -> None:
    if not repository.is_vector_store(source):
        repository.training_file(session, source, param=param)
        return
    if recipe.objective != "continued_pretraining":
        raise FineTuningUnsupported(
            f"{source} holds documents: only the method continued_pretraining learns from them, not "
            f"{recipe.objective}.",
            param=param,
        )
    repository.check_vector_store(session, source, param=param)


JOB_HANDLERS: dict[Any, Any] = {
    TrainAdapter: train_adapter,
    OrderTraining: order_training,
    DeleteWeights: delete_weights,
}
RELEASE_HANDLERS: dict[Any, Any] = {ReleaseTraining: release_training}
"""For the search worker, whose jobs do not wait for a training to end."""
