"""It fine-tunes as users of the client know it: events, checkpoints, result files, pause, resume and cancel."""

import csv
import io
from typing import Any

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.contract.client.conftest import TRAINABLE, finished, json_lines, sums, until, upload

covers = pytest.mark.covers
LONG: dict[str, Any] = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1000, "batch_size": 1}}}


@covers("fine_tuning.jobs.create", "fine_tuning.jobs.retrieve")
def test_reports_a_job_as_the_client_knows_it(
    client: openai.OpenAI, trained: FineTuningJob, training_file: str, validation_file: str
) -> None:
    job = client.fine_tuning.jobs.retrieve(trained.id)
    assert job.object == "fine_tuning.job"
    assert (job.model, job.training_file, job.validation_file) == (TRAINABLE, training_file, validation_file)
    assert (job.seed, job.metadata) == (7, {"suite": "contract"})
    assert job.organization_id
    assert job.finished_at is not None
    assert job.finished_at >= job.created_at
    assert job.error is None or not job.error.message
    assert job.fine_tuned_model is not None
    words = job.fine_tuned_model.split(":")
    assert (words[0], words[1], words[3]) == ("ft", TRAINABLE, "sums")
    assert len(words) == 5
    assert job.method is not None
    assert job.method.type == "supervised"
    assert job.method.supervised is not None
    assert job.method.supervised.hyperparameters is not None
    assert job.method.supervised.hyperparameters.n_epochs == 2
    assert job.method.supervised.hyperparameters.batch_size == 4
    assert isinstance(job.method.supervised.hyperparameters.learning_rate_multiplier, float)
    assert job.hyperparameters.n_epochs == 2
    assert job.trained_tokens is not None
    assert job.trained_tokens > 0


@covers("fine_tuning.jobs.create")
def test_writes_a_result_file_with_a_row_a_step(client: openai.OpenAI, trained: FineTuningJob) -> None:
    [result] = trained.result_files
    assert client.files.retrieve(result).purpose == "fine-tune-results"
    rows = list(csv.DictReader(io.StringIO(client.files.content(result).text)))
    columns = ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    assert list(rows[0]) == columns
    assert [int(row["step"]) for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) == 6  # 12 examples, 4 in a batch, twice
    assert all(float(row["train_loss"]) > 0 for row in rows)
    assert any(row["valid_loss"] for row in rows)


@covers("fine_tuning.jobs.list_events")
def test_tells_what_happened_to_the_end(client: openai.OpenAI, trained: FineTuningJob) -> None:
    events = list(client.fine_tuning.jobs.list_events(trained.id, limit=3))
    assert len({event.id for event in events}) == len(events)
    assert {event.object for event in events} == {"fine_tuning.job.event"}
    assert {event.level for event in events} <= {"info", "warn", "error"}
    assert {event.type for event in events} == {"message", "metrics"}
    times = [event.created_at for event in events]
    assert times == sorted(times, reverse=True)
    metrics = [event.data for event in events if event.type == "metrics"]
    steps = [data["step"] for data in metrics if isinstance(data, dict)]
    assert steps == [6, 5, 4, 3, 2, 1]
    assert isinstance(metrics[-1], dict)
    assert {"step", "total_steps", "train_loss", "train_mean_token_accuracy"} <= set(metrics[-1])
    assert any(isinstance(data, dict) and data.get("valid_loss") is not None for data in metrics)


@covers("fine_tuning.jobs.checkpoints.list")
def test_lists_checkpoints_that_answer_as_models(client: openai.OpenAI, trained: FineTuningJob) -> None:
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(trained.id, limit=1))
    assert 1 <= len(checkpoints) <= 3
    steps = [checkpoint.step_number for checkpoint in checkpoints]
    assert steps == sorted(set(steps), reverse=True)
    for checkpoint in checkpoints:
        assert checkpoint.object == "fine_tuning.job.checkpoint"
        assert checkpoint.fine_tuning_job_id == trained.id
        assert checkpoint.metrics.step == checkpoint.step_number
        assert checkpoint.metrics.train_loss is not None
        answer = client.chat.completions.create(
            model=checkpoint.fine_tuned_model_checkpoint, messages=[{"role": "user", "content": "1?"}], max_tokens=2
        )
        assert answer.choices[0].finish_reason in {"stop", "length"}


@covers("fine_tuning.jobs.create")
def test_chooses_automatic_hyperparameters_from_the_data_and_says_which(client: openai.OpenAI) -> None:
    job = client.fine_tuning.jobs.create(model=TRAINABLE, training_file=upload(client, "auto.jsonl", sums(2000, 10)))
    done = finished(client, job.id)
    assert done.status == "succeeded", done.error
    assert isinstance(done.hyperparameters.n_epochs, int)
    assert isinstance(done.hyperparameters.batch_size, int)
    assert isinstance(done.hyperparameters.learning_rate_multiplier, float)


@covers("fine_tuning.jobs.create")
def test_still_takes_the_deprecated_hyperparameters(client: openai.OpenAI, training_file: str) -> None:
    job = client.fine_tuning.jobs.create(
        model=TRAINABLE, training_file=training_file, hyperparameters={"n_epochs": 1, "batch_size": 6}
    )
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (1, 6)
    assert finished(client, job.id).status == "succeeded"


@covers("fine_tuning.jobs.create")
def test_learns_from_preferences(client: openai.OpenAI) -> None:
    rows = [
        {
            "input": {"messages": [{"role": "user", "content": f"Say {number}."}]},
            "preferred_output": [{"role": "assistant", "content": f"{number}."}],
            "non_preferred_output": [{"role": "assistant", "content": "No."}],
        }
        for number in range(10)
    ]
    job = client.fine_tuning.jobs.create(
        model=TRAINABLE,
        training_file=upload(client, "pairs.jsonl", json_lines(rows)),
        method={"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1, "batch_size": 5, "beta": 0.2}}},
    )
    done = finished(client, job.id)
    assert done.status == "succeeded", done.error
    assert done.method is not None
    assert done.method.type == "dpo"
    assert done.method.dpo is not None
    assert done.method.dpo.hyperparameters is not None
    assert done.method.dpo.hyperparameters.beta == pytest.approx(0.2)


@covers("fine_tuning.jobs.pause", "fine_tuning.jobs.resume", "fine_tuning.jobs.cancel")
def test_pauses_resumes_and_cancels_a_running_job(client: openai.OpenAI) -> None:
    job = client.fine_tuning.jobs.create(
        model=TRAINABLE, training_file=upload(client, "long.jsonl", sums(3000, 40)), method=LONG
    )

    def look() -> FineTuningJob:
        return client.fine_tuning.jobs.retrieve(job.id)

    until(look, lambda seen: seen.status == "running")
    assert client.fine_tuning.jobs.pause(job.id).id == job.id
    assert until(look, lambda seen: seen.status == "paused").finished_at is None
    assert client.fine_tuning.jobs.resume(job.id).id == job.id
    until(look, lambda seen: seen.status == "running")
    assert client.fine_tuning.jobs.cancel(job.id).id == job.id
    cancelled = finished(client, job.id)
    assert cancelled.status == "cancelled"
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.cancel(job.id)
    assert job.id in refused.value.message


@covers("fine_tuning.jobs.list")
def test_lists_jobs_to_the_end_and_by_metadata(client: openai.OpenAI, trained: FineTuningJob) -> None:
    file_id = upload(client, "listed.jsonl", sums(4000, 10))
    made = []
    for number in range(3):
        job = client.fine_tuning.jobs.create(
            model=TRAINABLE, training_file=file_id, method=LONG, metadata={"group": "listed", "number": str(number)}
        )
        client.fine_tuning.jobs.cancel(job.id)
        made.append(job.id)
    listed = [job.id for job in client.fine_tuning.jobs.list(limit=2)]
    assert len(set(listed)) == len(listed)
    assert {*made, trained.id} <= set(listed)
    assert [job.id for job in client.fine_tuning.jobs.list(limit=2, metadata={"group": "listed"})] == made[::-1]
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"group": "listed", "number": "1"})] == [made[1]]
    page = client.fine_tuning.jobs.list(limit=1)
    assert page.has_more is True


@covers("fine_tuning.jobs.create")
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "no-such-model"}, "model"),
        ({"training_file": "file-unknown"}, "training_file"),
        ({"validation_file": "file-unknown"}, "validation_file"),
        ({"method": {"type": "reinforcement"}}, "method"),
        ({"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 0}}}}, "method.supervised"),
        ({"method": {"type": "supervised", "supervised": {"hyperparameters": {"depth": 3}}}}, "method.supervised"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations"),
        ({"suffix": "not a suffix"}, "suffix"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_refuses_by_name_what_it_cannot_honour(
    client: openai.OpenAI, training_file: str, body: dict, param: str
) -> None:
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as refused:
        client.fine_tuning.jobs.create(model=TRAINABLE, training_file=training_file, extra_body=body)
    assert (refused.value.param or "").startswith(param)


@covers("fine_tuning.jobs.create")
def test_names_the_line_that_is_no_example(client: openai.OpenAI) -> None:
    file_id = upload(client, "broken.jsonl", sums(5000, 10) + b'{"messages": "not a list"}\n')
    job = finished(client, client.fine_tuning.jobs.create(model=TRAINABLE, training_file=file_id).id)
    assert job.status == "failed"
    assert job.error is not None
    assert "line 11" in job.error.message.lower()
    assert job.error.param == "training_file"


@covers("fine_tuning.jobs.retrieve")
def test_knows_nothing_of_an_unknown_job(client: openai.OpenAI) -> None:
    jobs = client.fine_tuning.jobs
    calls = [jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume, jobs.list_events, jobs.checkpoints.list]
    for call in calls:
        with pytest.raises(openai.NotFoundError):
            call("ftjob-unknown")


@covers("fine_tuning.jobs.create")
def test_says_that_checkpoints_are_not_shared(client: openai.OpenAI, trained: FineTuningJob) -> None:
    checkpoint = trained.fine_tuned_model or ""
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.checkpoints.permissions.create(checkpoint, project_ids=["proj_other"])
    assert "shared" in refused.value.message
