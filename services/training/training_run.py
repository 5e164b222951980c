"""One training job from its row to a stored adapter: write the rows, run the child, keep what it makes."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from services.training import repository
from services.training.child import run_child
from services.training.domain import Example, fine_tuned_model_id, read_chat_lines
from services.training.errors import NoTrainingExamples, TrainingChildStopped
from services.training.order import CheckpointSaved, ChildEvent, Finished, Started, Stepped, TrainingOrder
from services.training.recipe import Recipe
from services.training.rendering import Renderer, model_folder
from services.training.settings import TrainingSettings, child_environment
from services.training.tables import AdapterRow, CheckpointRow
from shared.errors import UpliftError
from shared.ids import new_id
from shared.jobs import HandOver, JobCancelled, JobContext
from shared.prompt_format import PromptSpec
from shared.telemetry import logger

log = logger(__name__)
_STALE_SECONDS = 7 * 86400


class TrainingRun:
    """One attempt at one job. Its working folder outlives a hand-over on the same machine, so rows and checkpoints
    are there again; another machine fetches the newest checkpoint from storage."""

    def __init__(self, context: JobContext, training_job_id: str) -> None:
        self._context = context
        self._storage = context.wiring.storage
        settings = context.wiring.settings
        assert isinstance(settings, TrainingSettings), "the training worker is wired with TrainingSettings"
        self._settings = settings
        with context.transaction() as session:
            self._job, _ = repository.get_job(session, training_job_id)
        self._folder = settings.training_dir / training_job_id
        self._recipe = Recipe.model_validate(self._job.recipe)
        self._last_step: Stepped | None = None

    def run(self) -> None:
        """Train to the end; a cancelled or finished job leaves no working folder behind."""
        discard_stale(self._settings.training_dir)
        try:
            finished = run_child(
                self._prepare(),
                environment=child_environment(),
                on_event=self._hear,
                wish=self._context.should_stop,
                grace_seconds=self._settings.training_grace_seconds,
            )
        except TrainingChildStopped as stopped:
            if stopped.wish == "cancel":
                self._discard()
                raise JobCancelled(self._job.id) from stopped
            raise HandOver(stopped.wish) from stopped
        except UpliftError as error:
            if not error.retryable:  # the job ends here; its checkpoints are in storage
                self._discard()
            raise
        self._keep(finished)
        self._discard()

    # --- before the child ---

    def _prepare(self) -> Path:
        """Rows, checkpoints of an earlier attempt, and the order in the working folder; answers the order's path."""
        job, folder = self._job, self._folder
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / "output", ignore_errors=True)
        base = model_folder(self._settings.models_dir, job.base_model)
        renderer = Renderer(base, PromptSpec.model_validate(job.prompt), job.max_passage_tokens)
        train, validation = folder / "train.jsonl", folder / "validation.jsonl"
        with self._context.transaction() as session:
            count, digest = renderer.write(train, self._examples(session, "train"))
            validation_count, _ = renderer.write(validation, self._examples(session, "validation"))
            init = repository.adapter(session, job.init_adapter_id) if job.init_adapter_id else None
        if count == 0:
            source = job.dataset_id or job.training_file
            raise NoTrainingExamples(f"{source} holds no training examples.", param="training_file")
        self._fetch_checkpoint(folder / "checkpoints")
        order = TrainingOrder(
            base_model=job.base_model,
            model_dir=base,
            init_adapter_dir=self._storage.local_folder(job.project_id, init.blob_key) if init else None,
            train_file=train,
            validation_file=validation if validation_count else None,
            recipe=self._recipe,
            checkpoint_dir=folder / "checkpoints",
            output_dir=folder / "output",
            home=self._settings.home,
            data_sha256=digest,
        )
        path = folder / "order.json"
        path.write_text(order.model_dump_json(indent=2))
        return path

    def _examples(self, session: Session, split: str) -> Iterator[Example]:
        job = self._job
        if job.dataset_id is not None:
            yield from repository.examples(session, job.dataset_id, split)
            return
        param = "training_file" if split == "train" else "validation_file"
        file_id = job.training_file if split == "train" else job.validation_file
        if file_id is not None:
            key, name = repository.file_blob(session, file_id, param=param)
            with self._storage.open(job.project_id, key) as lines:
                yield from read_chat_lines(lines, name)

    def _fetch_checkpoint(self, root: Path) -> None:
        """Take the newest recorded checkpoint from storage when this machine has none of its own."""
        if any(root.glob("step-*")):
            return
        with self._context.transaction() as session:
            newest = repository.newest_checkpoint(session, self._job.id)
        if newest is not None and newest.blob_key is not None:
            stored = self._storage.local_folder(self._job.project_id, newest.blob_key)
            shutil.copytree(stored, root / f"step-{newest.step:08}")

    # --- while it runs ---

    def _hear(self, event: ChildEvent) -> None:
        match event:
            case Started():
                self._announce(event)
            case Stepped():
                self._last_step = event
                data = event.model_dump(mode="json", exclude={"event"})
                message = f"Step {event.step}/{event.total_steps}: training loss={event.train_loss:.3f}"
                if event.valid_loss is not None:
                    message += f", validation loss={event.valid_loss:.3f}"
                self._context.event(message, type="metrics", data=data, step=event.step)
                self._context.progress(event.step, event.total_steps, "steps", f"loss {event.train_loss:.3f}")
            case CheckpointSaved():
                self._record(event)

    def _announce(self, event: Started) -> None:
        self._recipe = event.recipe
        self._context.progress(event.resumed_from, event.total_steps, "steps", "training")
        began = f"Resumed at step {event.resumed_from}" if event.resumed_from else "Training started"
        data = event.model_dump(mode="json", exclude={"event", "recipe"})
        self._context.event(
            f"{began}: {event.train_examples} examples, {event.total_steps} steps, {event.precision} on {event.device}",
            data=data,
        )
        if event.left_out:
            self._context.event(
                f"{event.left_out} examples are longer than max_length {event.recipe.max_length} tokens and were "
                "left out.",
                level="warn",
            )

    def _record(self, event: CheckpointSaved) -> None:
        try:
            blob = self._storage.put_folder(self._job.project_id, event.folder)
        except FileNotFoundError:
            # the child drops old checkpoints; one that is already gone has a newer successor on its way here
            log.info("checkpoint was superseded before it was stored", step=event.step)
            return
        row = CheckpointRow(
            id=new_id("ftckpt_"),
            project_id=self._job.project_id,
            job_id=self._job.id,
            step=event.step,
            metrics=_metrics_of(self._last_step),
            blob_key=blob.key,
        )
        with self._context.transaction() as session:
            old = repository.record_checkpoint(session, row)
        self._delete_blobs(old)

    # --- after it ---

    def _keep(self, finished: Finished) -> None:
        """Store the adapter, then its row, the job's row and the end of the job in one transaction."""
        job = self._job
        blob = self._storage.put_folder(job.project_id, self._folder / "output")
        metrics = finished.model_dump(mode="json", exclude={"event", "trained_tokens", "train_seconds"})
        self._context.event("Training finished; the best weights are stored.", data=metrics)
        with self._context.transaction() as session:
            project = repository.project_name(session, job.project_id)
            adapter = AdapterRow(
                id=new_id("ad_"),
                project_id=job.project_id,
                model_id=fine_tuned_model_id(job.base_model, project, job.suffix, job.id),
                base_model=job.base_model,
                blob_key=blob.key,
                job_id=job.id,
                dataset_id=job.dataset_id,
                recipe=self._recipe.model_dump(mode="json"),
                metrics=metrics,
                train_seconds=finished.train_seconds,
                trained_tokens=finished.trained_tokens,
            )
            repository.add(session, adapter)
            row, _ = repository.get_job(session, job.id)
            row.fine_tuned_model, row.trained_tokens = adapter.model_id, adapter.trained_tokens
            old = repository.forget_checkpoint_blobs(session, job.id)
            result: dict[str, Any] = {
                "adapter_id": adapter.id,
                "model_id": adapter.model_id,
                "train_seconds": finished.train_seconds,
                "trained_tokens": finished.trained_tokens,
                "metrics": metrics,
            }
            self._context.succeed(session, result)
        self._delete_blobs(old)

    def _discard(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _delete_blobs(self, keys: list[str]) -> None:
        for key in keys:
            self._storage.delete(self._job.project_id, key)


def discard_stale(root: Path) -> None:
    """Remove working folders that nobody has touched for a week: of jobs that were cancelled while they waited."""
    for folder in root.glob("*/"):
        if folder.stat().st_mtime < time.time() - _STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _metrics_of(step: Stepped | None) -> dict[str, Any]:
    """A checkpoint's metrics in OpenAI's names."""
    if step is None:
        return {}
    return {
        "step": step.step,
        "train_loss": step.train_loss,
        "train_mean_token_accuracy": step.train_mean_token_accuracy,
        "valid_loss": step.valid_loss,
        "valid_mean_token_accuracy": step.valid_mean_token_accuracy,
        "full_valid_loss": step.valid_loss,
        "full_valid_mean_token_accuracy": step.valid_mean_token_accuracy,
    }
