"""What a running child says, kept: steps and news as events, states and checkpoints in storage, progress."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from services.training import repository
from services.training.domain import checkpoint_model_id
from services.training.fit import told
from services.training.loggers import Loggers
from services.training.order import CheckpointSaved, ChildEvent, Estimated, Probed, Started, StateSaved, Stepped
from services.training.recipe import Recipe
from services.training.settings import TrainingSettings
from services.training.tables import CheckpointRow, TrainingJob
from shared import jobs
from shared.clock import now
from shared.files import keep_blob, release_blobs
from shared.ids import new_id
from shared.jobs import JobContext
from shared.messages import AdvanceSearch, SteerSearch
from shared.storage import Staged
from shared.telemetry import logger

log = logger(__name__)


class Recorder:
    """Hears one child. Whatever it is told twice it records once: a resumed child says some things again."""

    def __init__(self, context: JobContext, job: TrainingJob, model_id: str) -> None:
        self.recipe = Recipe.model_validate(job.recipe)
        """As it runs, once the child has started."""
        self._context, self._job, self._model_id = context, job, model_id
        self._storage = context.wiring.storage
        settings = context.wiring.settings
        assert isinstance(settings, TrainingSettings), "the training worker is wired with TrainingSettings"
        self.loggers = Loggers(settings, job.id, model_id)

    def hear(self, event: ChildEvent) -> None:
        match event:
            case Started():
                self._started(event)
            case Estimated():
                self._estimated(event)
            case Stepped():
                self._stepped(event)
            case StateSaved():
                self._keep_state(event)
            case CheckpointSaved():
                self._keep_checkpoint(event)
            case Probed():
                self._context.event(
                    f"Loss on {event.questions} general questions: {event.before:.3f} before, {event.after:.3f} now",
                    data={"general_ability": event.model_dump(mode="json", exclude={"event"})},
                )

    def _started(self, event: Started) -> None:
        self.recipe = event.recipe
        self._context.progress(event.resumed_from, event.total_steps, "steps", "training", measured=lambda: None)
        with self._context.transaction() as session:
            row, _ = repository.get_job(session, self._job.id)
            first, row.validated_at = row.validated_at is None, row.validated_at or now()

            def say(message: str, level: str = "info", data: dict[str, object] | None = None) -> None:
                repository.add_event(session, row.project_id, row.id, message, level=level, data=data)

            if first:
                say("Files validated")
            if first and event.left_out:
                say(
                    f"{event.left_out} examples are longer than max_length {event.recipe.max_length} tokens and were "
                    "left out",
                    level="warn",
                )
            began = "started" if first else "started again"
            if event.resumed_from:
                began = f"resumed at step {event.resumed_from}"
            say(f"Fine-tuning job {began}", data=event.model_dump(mode="json", exclude={"event", "recipe"}))
            if event.resumed_with:
                changed = ", ".join(f"{name} {then} → {now}" for name, (then, now) in event.resumed_with.items())
                say(
                    f"Resumed under other conditions than the checkpoint was written in ({changed}): from here on "
                    "losses equal an unbroken run's only up to rounding",
                    level="warn",
                )

    def _estimated(self, event: Estimated) -> None:
        self._context.event(told(event), data={"estimate": event.model_dump(mode="json", exclude={"event"})})
        self._context.progress(0, event.total_steps, "steps", "training", measured=lambda: event.seconds)

    def _stepped(self, event: Stepped) -> None:
        data = {name: value for name, value in event.figures().items() if name != "seconds_left"}
        message = f"Step {event.step}/{event.total_steps}: training loss={event.train_loss:.2f}"
        if event.valid_loss is not None:
            message += f", validation loss={event.valid_loss:.2f}"
        if event.full_valid_loss is not None:
            message += f", full validation loss={event.full_valid_loss:.2f}"
        is_new = self._context.event(message, type="metrics", data=data, step=event.step)
        if event.valid_loss is not None and self._context.job.notify_kind == AdvanceSearch.kind:
            self._tell_search(event.step)
        self._context.progress(
            event.step, event.total_steps, "steps", f"loss {event.train_loss:.3f}", measured=lambda: event.seconds_left
        )
        if is_new:
            self.loggers.step(event)
        self.tell_of_loggers()

    def tell_of_loggers(self) -> None:
        """Say which logger failed since it was asked last."""
        while problem := self.loggers.problem():
            self._context.event(problem, level="warn")

    def _tell_search(self, step: int) -> None:
        """A search's trial was validated. It reads all that is recorded, so one word that is lost does no harm."""
        job = self._context.job
        assert job.parent_id is not None, "a trial's parent is its search"
        with self._context.transaction() as session:
            command = SteerSearch(search_id=job.parent_id)
            jobs.send(
                session, job.project_id, command, subject_id=job.parent_id, dedupe_key=f"{job.id}:validated:{step}"
            )

    def _keep_state(self, event: StateSaved) -> None:
        with self._staged(event.folder) as staged:
            if staged is None:
                return
            with self._context.transaction() as session:
                blob = keep_blob(session, staged)
                old = repository.keep_state(session, self._job.id, event.step, blob)
                release_blobs(session, self._storage, self._job.project_id, old)

    def _keep_checkpoint(self, event: CheckpointSaved) -> None:
        with self._context.transaction() as session:
            if repository.has_checkpoint(session, self._job.id, event.step):
                return
        with self._staged(event.folder) as staged:
            if staged is None:
                return
            with self._context.transaction() as session:
                blob = keep_blob(session, staged)
                row = CheckpointRow(
                    id=new_id("ftckpt_"),
                    project_id=self._job.project_id,
                    job_id=self._job.id,
                    step=event.step,
                    metrics=event.metrics,
                    model_id=checkpoint_model_id(self._model_id, event.step),
                    base_model=self._job.base_model,
                    blob_key=blob.key,
                    bytes=blob.size,
                )
                old = repository.record_checkpoint(session, row)
                repository.add_event(
                    session,
                    row.project_id,
                    row.job_id,
                    f"Checkpoint created at step {event.step}",
                    data={"step": event.step, "fine_tuned_model_checkpoint": row.model_id},
                )
                release_blobs(session, self._storage, row.project_id, old)

    @contextmanager
    def _staged(self, folder: Path) -> Iterator[Staged | None]:
        """The folder's bytes, ready to be kept; None if the child has dropped it for newer ones, then it is not missed.

        The child goes on meanwhile: the folder may go before it is read, or half-way.
        """
        with ExitStack() as stack:
            staged = None
            try:
                staged = stack.enter_context(self._storage.staged_folder(self._job.project_id, folder))
            except FileNotFoundError:
                if folder.is_dir():
                    raise
            if not folder.is_dir():  # read in part, perhaps
                log.info("dropped before it was stored", folder=folder.name)
                staged = None
            yield staged
