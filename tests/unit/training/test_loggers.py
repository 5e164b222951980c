"""Figures in TensorBoard's event files and MLflow's store, read back by the libraries themselves."""

import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from services.training.loggers import End, Loggers
from services.training.order import Stepped
from services.training.settings import TrainingSettings


def stepped(step: int, valid_loss: float | None = None) -> Stepped:
    return Stepped(
        step=step, total_steps=3, epoch=1.0, train_loss=1.0 / step, train_mean_token_accuracy=0.5, learning_rate=1e-3,
        gradient_norm=1.0, tokens=10, computed_tokens=8, seconds=0.1, memory_bytes=1, valid_loss=valid_loss,
    )  # fmt: skip


def logged(settings: TrainingSettings, steps: list[int], end: End = "finished") -> Loggers:
    loggers = Loggers(settings, "ftjob-1", "ft:tiny:p::1")
    for step in steps:
        loggers.step(stepped(step, 0.25 if step == 3 else None))
    loggers.close(end)
    return loggers


def test_tensorboard_reads_every_step_back(tmp_path: Path) -> None:
    assert logged(TrainingSettings(tensorboard_dir=tmp_path), [1, 2, 3]).problem() is None
    read = EventAccumulator(str(tmp_path / "ftjob-1"))
    read.Reload()
    assert [(one.step, one.value) for one in read.Scalars("train_loss")] == [
        (1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)),
    ]  # fmt: skip
    assert [(one.step, one.value) for one in read.Scalars("valid_loss")] == [(3, 0.25)]
    assert [one.value for one in read.Scalars("tokens_per_second")] == [100.0] * 3, "ten tokens in a tenth of a second"


def test_a_step_without_a_measured_time_has_no_speed() -> None:
    timeless = stepped(1).model_copy(update={"seconds": 0.0})
    assert timeless.tokens_per_second is None
    assert "tokens_per_second" not in timeless.figures()
    assert stepped(1).figures()["tokens_per_second"] == 100.0


def test_mlflow_has_one_run_a_job_even_if_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    client = MlflowClient(tracking_uri=uri)
    assert logged(TrainingSettings(mlflow_tracking_uri=uri), [1, 2], "interrupted").problem() is None
    assert the_run(client).info.status == "SCHEDULED"
    assert logged(TrainingSettings(mlflow_tracking_uri=uri), [3]).problem() is None
    run = the_run(client)
    assert run.info.status == "FINISHED"
    assert run.data.tags["model_id"] == "ft:tiny:p::1"
    history = client.get_metric_history(run.info.run_id, "train_loss")
    assert sorted((one.step, one.value) for one in history) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert [one.value for one in client.get_metric_history(run.info.run_id, "tokens_per_second")] == [100.0] * 3


@pytest.mark.parametrize(("end", "status"), [("failed", "FAILED"), ("cancelled", "KILLED")])
def test_mlflow_is_told_of_a_bad_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: End, status: str) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    assert logged(TrainingSettings(mlflow_tracking_uri=uri), [1], end).problem() is None
    assert the_run(MlflowClient(tracking_uri=uri)).info.status == status


def the_run(client: MlflowClient) -> Run:
    """The only run of our experiment."""
    experiment = client.get_experiment_by_name("uplift")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_one_that_fails_says_so_once_and_leaves_the_others_be(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    failing = logged(TrainingSettings(tensorboard_dir=in_the_way), [1, 2, 3])
    problem = failing.problem()
    assert problem is not None
    assert problem.startswith("TensorBoard gets no more figures of this run: NotADirectoryError")
    assert failing.problem() is None


def test_without_settings_nothing_is_loaded_or_written() -> None:
    before = set(sys.modules)
    assert logged(TrainingSettings(tensorboard_dir=None, mlflow_tracking_uri=None), [1]).problem() is None
    assert set(sys.modules) == before
