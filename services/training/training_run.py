"""One training job from its row to a stored adapter: write the rows, run the child, keep what it makes."""

import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from services.training import held, repository
from services.training.child import run_child
from services.training.domain import fine_tuned_model_id
from services.training.errors import OutOfMemory, TrainingChildDied, TrainingChildStopped
from services.training.exhaustion import name_exhaustion
from services.training.hyperparameters import echoed, resolved
from services.training.less_memory import lower_micro_batch
from services.training.loggers import End
from services.training.order import Finished, TrainingOrder
from services.training.recipe import Recipe
from services.training.recorder import Recorder
from services.training.rendering import model_folder
from services.training.results import FILENAME, PURPOSE, result_csv
from services.training.rows import RowWriter
from services.training.settings import TrainingSettings, child_environment
from services.training.tables import AdapterRow
from shared.errors import UpliftError
from shared.files import keep_blob, release_blobs, store_file
from shared.ids import new_id
from shared.jobs import HandOver, JobCancelled, JobContext

_STALE_SECONDS = 7 * 86400


class TrainingRun:
    """One attempt at one job. Its working folder outlives a hand-over on the same machine, so rows and states are
    there again; another machine fetches the newest state from storage."""

    def __init__(self, context: JobContext, training_job_id: str) -> None:
        self._context = context
        self._storage = context.wiring.storage
        settings = context.wiring.settings
        assert isinstance(settings, TrainingSettings), "the training worker is wired with TrainingSettings"
        self._settings = settings
        with context.transaction() as session:
            self._job, _ = repository.get_job(session, training_job_id)
            project = repository.project_name(session, self._job.project_id)
        self._model_id = fine_tuned_model_id(self._job.base_model, project, self._job.suffix, self._job.id)
        self._folder = settings.training_dir / training_job_id
        self._recorder = Recorder(context, self._job, self._model_id)

    def run(self) -> None:
        """Train to the end; a job that ends leaves neither working folder nor state behind."""
        discard_stale(self._settings.training_dir)
        end: End = "interrupted"
        try:
            finished = self._train()
            end = "finished"
        except TrainingChildStopped as stopped:
            if stopped.wish == "cancel":
                end = "cancelled"
                self._discard()
                raise JobCancelled(self._job.id) from stopped
            raise HandOver(stopped.wish) from stopped
        except (UpliftError, TrainingChildDied) as error:
            if self._ends_job(error):
                end = "failed"
                self._discard()
            raise
        finally:
            self._recorder.loggers.close(end)
            self._recorder.tell_of_loggers()  # one may have failed at what it was still to write
        try:
            with _exhaustion_named():
                self._keep(finished)
        except UpliftError as error:
            if self._ends_job(error):
                self._discard()
            raise
        self._discard()

    def _ends_job(self, error: UpliftError | TrainingChildDied) -> bool:
        """Whether there is no other try."""
        last = self._context.job.attempt >= self._context.job.max_attempts
        return last or (isinstance(error, UpliftError) and not error.retryable)

    def _train(self) -> Finished:
        """Run the child; once more, with a smaller micro-batch, when memory runs out."""
        try:
            return self._run_child()
        except OutOfMemory as error:
            changed = lower_micro_batch(self._context, self._job, error)
            if changed is None:
                raise
            self._job = changed
            return self._run_child()

    def _run_child(self) -> Finished:
        with _exhaustion_named():
            return run_child(
                self._prepare(),
                environment=child_environment(self._settings.training_shard),
                on_event=self._recorder.hear,
                wish=self._context.should_stop,
                grace_seconds=self._settings.training_grace_seconds,
                processes=self._settings.training_processes,
            )

    # --- before the child ---

    def _prepare(self) -> Path:
        """Rows, the state of an earlier attempt, and the order in the working folder; answers the order's path."""
        with self._context.transaction() as session:
            self._job, _ = repository.get_job(session, self._job.id)
            held.hold_stores(session, self._job)
        job, folder = self._job, self._folder
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / "output", ignore_errors=True)
        # an earlier attempt's estimate is not this one's
        self._context.progress(0, 0, "steps", "validating files", measured=lambda: None)
        base = model_folder(self._settings.models_dir, job.base_model)
        if job.validated_at is None:
            files = " and validation file: ".join(filter(None, (self._source, job.validation_file)))
            files += f" and replay file: {job.replay_file}" if job.replay_file else ""
            self._context.event(f"Validating training file: {files}")
        train, validation, replay = (folder / f"{name}.jsonl" for name in ("train", "validation", "replay"))
        # not the job's own transaction: cutting a large corpus takes minutes, and heartbeats would wait for the row
        with self._context.wiring.database.transaction(job.project_id, idle_seconds=math.inf) as session:
            rows = RowWriter(session, self._storage, job, base, self._settings).write(train, validation, replay)
            init = repository.start_weights(session, job.init_adapter_id) if job.init_adapter_id else None
            recorded = repository.recorded_step(session, job.id)
        if rows.remark is not None and job.validated_at is None:
            self._context.event(rows.remark)
        self._fetch_state(folder / "states")
        gib = self._settings.training_memory_gib
        order = TrainingOrder(
            base_model=job.base_model,
            model_dir=base,
            init_adapter_dir=self._storage.local_folder(job.project_id, init) if init else None,
            train_file=train,
            validation_file=validation if rows.validation else None,
            replay_file=replay if rows.replays else None,
            recipe=self._resolve_recipe(rows.train),
            state_dir=folder / "states",
            checkpoint_dir=folder / "checkpoints",
            output_dir=folder / "output",
            home=self._settings.home,
            shard=self._settings.training_shard,
            threads=self._settings.compute_threads,
            data_sha256=rows.sha256,
            most_bytes=None if gib is None else int(gib * (1 << 30)),
            max_minutes=job.max_minutes,
            recorded_step=recorded,
        )
        path = folder / "order.json"
        path.write_text(order.model_dump_json(indent=2))
        return path

    @property
    def _source(self) -> str:
        return self._job.training_file or self._job.dataset_id or ""

    def _resolve_recipe(self, examples: int) -> Recipe:
        """The job's recipe; the first time, what was left to `auto` is chosen from the data and written down."""
        recipe = Recipe.model_validate(self._job.recipe)
        if self._job.micro_batch_tokens is not None:
            recipe = recipe.model_copy(update={"micro_batch_tokens": self._job.micro_batch_tokens})
        if not self._job.auto:
            return recipe
        chosen = resolved(recipe, self._job.auto, examples)
        with self._context.transaction() as session:
            row, _ = repository.get_job(session, self._job.id)
            if row.auto:
                words = echoed(chosen)
                told = ", ".join(f"{name} {words[name]}" for name in row.auto)
                repository.add_event(
                    session, row.project_id, row.id, f"Hyperparameters chosen from {examples} examples: {told}"
                )
                row.recipe, row.auto = chosen.model_dump(mode="json"), []
        return chosen

    def _fetch_state(self, root: Path) -> None:
        """Take the recorded state from storage when this machine has none that is as new."""
        with self._context.transaction() as session:
            row, _ = repository.get_job(session, self._job.id)
        if row.resume_blob_key is None or row.resume_step is None:
            return
        target = root / f"step-{row.resume_step:08}"
        if not any(own.name >= target.name for own in root.glob("step-*")):
            # under its name only once it is whole: half a copy would pass for a state that need not be fetched again
            partial = root / f".partial-{target.name}"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(self._storage.local_folder(row.project_id, row.resume_blob_key), partial)
            partial.rename(target)

    # --- after it ---

    def _keep(self, finished: Finished) -> None:
        """Store adapter and result file, with their rows, the job's row and the end of the job in one transaction."""
        job = self._job
        metrics = finished.model_dump(mode="json", exclude={"event", "trained_tokens", "train_seconds"})
        with (
            self._storage.staged_folder(job.project_id, self._folder / "output") as staged,
            self._context.transaction() as session,
        ):
            blob = keep_blob(session, staged)
            adapter = AdapterRow(
                id=new_id("ad_"),
                project_id=job.project_id,
                model_id=self._model_id,
                base_model=job.base_model,
                blob_key=blob.key,
                bytes=blob.size,
                job_id=job.id,
                dataset_id=job.dataset_id,
                recipe=self._recorder.recipe.model_dump(mode="json"),
                metrics=metrics,
                train_seconds=finished.train_seconds,
                trained_tokens=finished.trained_tokens,
            )
            repository.add(session, adapter)
            row, _ = repository.get_job(session, job.id)
            row.fine_tuned_model, row.trained_tokens = adapter.model_id, adapter.trained_tokens
            row.result_files = [self._store_result(session)]
            release_blobs(session, self._storage, job.project_id, held.let_go(session, job.id))
            made = f"New fine-tuned model created: {adapter.model_id}"
            repository.add_event(session, job.project_id, job.id, made, data=metrics)
            repository.add_event(session, job.project_id, job.id, "The job has successfully completed")
            result: dict[str, Any] = {
                "adapter_id": adapter.id,
                "model_id": adapter.model_id,
                "train_seconds": finished.train_seconds,
                "trained_tokens": finished.trained_tokens,
                "metrics": metrics,
            }
            self._context.succeed(session, result)

    def _store_result(self, session: Session) -> str:
        steps = result_csv(repository.metrics(session, self._job.id))
        project = self._job.project_id
        return store_file(session, self._storage, project, filename=FILENAME, purpose=PURPOSE, chunks=steps).id

    def _discard(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def _exhaustion_named() -> Iterator[None]:
    """Memory or disk that ran out under the worker's own files, or under storage that it writes to."""
    try:
        yield
    except OSError as error:
        named = name_exhaustion(error)
        if named is None:
            raise
        raise named from error


def discard_stale(root: Path) -> None:
    """Remove working folders in which nothing was written for a week: of jobs that were cancelled while they waited.

    Of all that is in them: a run that is long under way writes below its `states` alone.
    """
    for folder in root.glob("*/"):
        if _last_written(folder) < time.time() - _STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _last_written(folder: Path) -> float:
    """When anything in it was written last, in seconds since 1970."""
    try:
        return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:  # somebody is at work there
        return time.time()
