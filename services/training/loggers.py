"""A run's figures to TensorBoard and MLflow, where settings name them; both come with the extra `loggers`.

They are written by a thread of their own: a tracking server that hangs delays no step and no cancellation. A logger
that fails is dropped for the rest of the run and `problem` says so; the job's own events hold everything anyway.
"""

import queue
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from services.training.order import Stepped
from services.training.settings import TrainingSettings

_CLOSE_SECONDS = 10.0
"""How long the end of a run waits for what is not written yet."""
_COUNTS = {"step", "total_steps"}
End = Literal["finished", "failed", "cancelled", "interrupted"]
"""How an attempt ended; an interrupted one goes on later: paused, handed over, or tried again."""
_MLFLOW_STATUS = {"finished": "FINISHED", "failed": "FAILED", "cancelled": "KILLED", "interrupted": "SCHEDULED"}


class _Sink(Protocol):
    def log(self, step: int, values: dict[str, float]) -> None: ...

    def close(self, end: End) -> None: ...


class Loggers:
    """The loggers of one attempt at one job; without settings it does nothing."""

    def __init__(self, settings: TrainingSettings, job_id: str, model_id: str) -> None:
        self._openers: dict[str, Callable[[], _Sink]] = {}
        directory, uri = settings.tensorboard_dir, settings.mlflow_tracking_uri
        if directory is not None:
            self._openers["TensorBoard"] = lambda: _TensorBoard(directory / job_id)
        if uri is not None:
            self._openers["MLflow"] = lambda: _MLflow(uri, job_id, model_id)
        self._steps: queue.SimpleQueue[Stepped | End] = queue.SimpleQueue()
        self._problems: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="training-loggers", daemon=True)
        if self._openers:
            self._thread.start()

    def step(self, event: Stepped) -> None:
        if self._openers:
            self._steps.put(event)

    def problem(self) -> str | None:
        """What went wrong and was not told yet; at most one a logger and run."""
        return None if self._problems.empty() else self._problems.get()

    def close(self, end: End) -> None:
        """Write what is left, and how the attempt ended, within a limit."""
        if self._openers:
            self._steps.put(end)
            self._thread.join(_CLOSE_SECONDS)

    def _write(self) -> None:
        sinks: dict[str, _Sink] = {}
        for name, opened in self._openers.items():
            self._attempt(name, partial(_open, sinks, name, opened))
        while isinstance(event := self._steps.get(), Stepped):
            values = _values(event)
            for name, sink in list(sinks.items()):
                if not self._attempt(name, partial(sink.log, event.step, values)):
                    del sinks[name]
        for name, sink in sinks.items():
            self._attempt(name, partial(sink.close, event))

    def _attempt(self, name: str, act: Callable[[], None]) -> bool:
        try:
            act()
        except Exception as error:  # noqa: BLE001  (a foreign library, its server, its files: the run must go on)
            self._problems.put(f"{name} gets no more figures of this run: {type(error).__name__}: {error}"[:500])
            return False
        return True


class _TensorBoard:
    """Event files through TensorBoard's own writer, which needs no torch."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(folder))

    def log(self, step: int, values: dict[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        from shared.clock import now

        found = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._writer.add_event(Event(wall_time=now().timestamp(), step=step, summary=Summary(value=found)))

    def close(self, end: End) -> None:
        del end  # event files have no word for it
        self._writer.close()


class _MLflow:
    """A run of the experiment "uplift", named by the job; a resumed job goes on in its run."""

    def __init__(self, uri: str, job_id: str, model_id: str) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)
        known = self._client.get_experiment_by_name("uplift")
        experiment = known.experiment_id if known else self._client.create_experiment("uplift")
        before = self._client.search_runs([experiment], f"tags.job_id = '{job_id}'", max_results=1)
        tags = {"job_id": job_id, "model_id": model_id}
        run = before[0] if before else self._client.create_run(experiment, tags=tags, run_name=job_id)
        self._run_id = run.info.run_id
        self._client.update_run(self._run_id, status="RUNNING")

    def log(self, step: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        from shared.clock import now

        at = int(1000 * now().timestamp())
        self._client.log_batch(self._run_id, [Metric(name, value, at, step) for name, value in values.items()])

    def close(self, end: End) -> None:
        if end == "interrupted":
            self._client.update_run(self._run_id, status=_MLFLOW_STATUS[end])
        else:
            self._client.set_terminated(self._run_id, status=_MLFLOW_STATUS[end])


def _open(sinks: dict[str, _Sink], name: str, opened: Callable[[], _Sink]) -> None:
    sinks[name] = opened()


def _values(event: Stepped) -> dict[str, float]:
    """The step's figures but for its place in the run, under the names that the events have."""
    return {name: float(value) for name, value in event.figures().items() if name not in _COUNTS}
