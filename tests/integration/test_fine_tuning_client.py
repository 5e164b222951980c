"""Fine-tuning as OpenAI's users know it, driven by their unmodified client over the real routes, rows and child."""

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import sqlalchemy as sa
import torch
from fastapi import Request
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session

from services.data.handlers import JOB_HANDLERS as DATA_HANDLERS
from services.data.routes import router as data
from services.generation.answering import AdapterRef, Delta, GenerationRequest, Sampling
from services.generation.engine import Engine
from services.generation.resolving import resolve
from services.generation.routes import router as generation
from services.training import quantisation, repository, training_run
from services.training.answers import CheckpointMetrics
from services.training.child import run_child
from services.training.errors import TrainingChildStopped
from services.training.handlers import JOB_HANDLERS, RELEASE_HANDLERS
from services.training.routes import router as training
from services.training.settings import TrainingSettings
from services.training.tables import AdapterRow, CheckpointRow, HeldFile
from shared import jobs
from shared.files import File
from shared.ids import new_id
from shared.jobs.routes import router as jobs_router
from shared.jobs.runner import JobRunner
from shared.messages import PurgeExpired, ReleaseTraining
from shared.settings import Settings
from shared.storage import BlobMissing
from shared.web import Caller, create_app
from shared.wiring import Wiring
from tests.factories.tiny_model import make_tiny_model

pytestmark = pytest.mark.stack
SYSTEM = "You are a helpful assistant."


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fine-tuning-home")
    make_tiny_model(folder / "models" / "tiny")
    return folder


@pytest.fixture
def parts(wiring: Wiring, settings: Settings, home: Path) -> Wiring:
    return replace(wiring, settings=TrainingSettings(**settings.model_dump() | {"home": home}))


@pytest.fixture
def runner(parts: Wiring) -> JobRunner:
    return JobRunner(parts, JOB_HANDLERS, worker="test")


@pytest.fixture
def client(parts: Wiring, project_id: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[openai.OpenAI]:
    """Without retries of its own, so that an answer that the client would retry fails the test that got it."""
    monkeypatch.setenv("UPLIFT_HOME", str(home))

    async def access(_request: Request, _parts: Wiring) -> Caller:
        return Caller(project_id, "My Shop", "org", "key", ("write",), new_id("req_"))

    unclosed = replace(parts)
    unclosed.close = lambda: None  # type: ignore[method-assign]
    app = create_app("t", [data, training, generation, jobs_router], wiring_factory=lambda: unclosed, access=access)
    with TestClient(app) as http:
        yield openai.OpenAI(api_key="any", base_url="http://testserver/v1", http_client=http, max_retries=0)


def upload(client: openai.OpenAI, rows: list[dict[str, Any]], purpose: Any = "fine-tune") -> str:
    content = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    return client.files.create(file=("rows.jsonl", content), purpose=purpose).id


def chat(*turns: str) -> dict[str, Any]:
    """User and assistant in turn, the assistant last."""
    return {"messages": [{"role": ("user", "assistant")[n % 2], "content": turn} for n, turn in enumerate(turns)]}


def tokens_of(row: dict[str, Any]) -> int:
    """Counted by hand for the tiny model: a token a character, <s> and </s> one each, its template around each turn."""
    messages = [{"role": "system", "content": SYSTEM}, *row["messages"]]
    ends = len(messages) - 1  # a line break after every turn but the last, which ends with </s>
    return sum(1 + len(f"{message['role']}:{message['content']}") + 1 for message in messages) + ends


def sums(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [chat(f"{n}+2?", str(n + 2)) for n in range(first, first + count)]


def rewards(count: int) -> list[dict[str, Any]]:
    return [
        {
            "input": {"messages": [{"role": "user", "content": f"say {n}"}]},
            "preferred_output": [{"role": "assistant", "content": f"yes {n}"}],
            "non_preferred_output": [{"role": "assistant", "content": f"no, {n}"}],
        }
        for n in range(count)
    ]


def supervised(**hyperparameters: Any) -> Any:
    return {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}


def test_a_job_from_its_files_to_its_models(
    client: openai.OpenAI, runner: JobRunner, parts: Wiring, project_id: str, home: Path
) -> None:
    rows = [*sums(11), chat("1+1?", "2", "and 1?", "3")]
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=upload(client, rows),
        validation_file=upload(client, sums(3, first=30)),
        suffix="sums",
        seed=7,
        metadata={"team": "a"},
        method=supervised(n_epochs=4, batch_size="auto", learning_rate_multiplier="auto"),
        extra_body={"recipe": {"rank": 2}},
    )
    assert (job.status, job.seed, job.metadata, job.fine_tuned_model) == ("queued", 7, {"team": "a"}, None)
    assert job.hyperparameters.batch_size == job.hyperparameters.learning_rate_multiplier == "auto"
    assert (job.error, job.estimated_finish, job.trained_tokens, job.result_files) == (None, None, None, [])
    assert runner.run(project_id, job.id) == "succeeded"

    done = client.fine_tuning.jobs.retrieve(job.id)
    assert (done.status, done.estimated_finish) == ("succeeded", None)
    assert done.method is not None
    assert done.method.supervised is not None
    chosen = done.hyperparameters
    assert (chosen.n_epochs, chosen.batch_size, chosen.learning_rate_multiplier) == (4, 1, 0.25)
    assert done.method.supervised.hyperparameters is not None
    assert done.method.supervised.hyperparameters.to_dict() == chosen.to_dict()
    assert done.trained_tokens == 4 * sum(tokens_of(row) for row in rows)
    assert done.fine_tuned_model == f"ft:tiny:{project_slug(done)}:sums:{job.id[-8:]}"

    events = list(client.fine_tuning.jobs.list_events(job.id, limit=7))
    assert [event.message for event in reversed(events) if event.type == "message"] == [
        f"Created fine-tuning job: {job.id}",
        f"Validating training file: {job.training_file} and validation file: {job.validation_file}",
        "Hyperparameters chosen from 12 examples: batch_size 1, learning_rate_multiplier 0.25",
        "Files validated",
        "Fine-tuning job started",
        next(event.message for event in events if event.message.startswith("Estimated before the first step: ")),
        *(f"Checkpoint created at step {step}" for step in (12, 24, 36, 48)),
        next(event.message for event in events if event.message.startswith("Loss on 40 general questions: ")),
        f"New fine-tuned model created: {done.fine_tuned_model}",
        "The job has successfully completed",
    ]
    metrics: list[Any] = [event.data for event in reversed(events) if event.type == "metrics"]
    assert [entry["step"] for entry in metrics] == list(range(1, 49))
    assert {entry["total_steps"] for entry in metrics} == {48}
    assert [entry["step"] for entry in metrics if "valid_loss" in entry] == [12, 24, 36, 48]
    assert metrics[-1]["full_valid_loss"] == metrics[-1]["valid_loss"]
    assert all(0 <= entry["train_mean_token_accuracy"] <= 1 for entry in metrics)
    assert all(entry["tokens_per_second"] == entry["tokens"] / entry["seconds"] for entry in metrics)

    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    assert [checkpoint.step_number for checkpoint in checkpoints] == [48, 36, 24]
    for checkpoint in checkpoints:
        assert checkpoint.fine_tuned_model_checkpoint == f"{done.fine_tuned_model}:ckpt-step-{checkpoint.step_number}"
        measured = metrics[checkpoint.step_number - 1]
        assert checkpoint.metrics.to_dict() == {name: measured[name] for name in checkpoint.metrics.to_dict()}
        assert None not in checkpoint.metrics.to_dict().values()
        assert len(checkpoint.metrics.to_dict()) == 7

    (result,) = done.result_files
    assert client.files.retrieve(result).purpose == "fine-tune-results"
    lines = list(csv.DictReader(io.StringIO(client.files.content(result).text)))
    assert [int(line["step"]) for line in lines] == list(range(1, 49))
    assert [float(line["train_loss"]) for line in lines] == [entry["train_loss"] for entry in metrics]
    assert [line["valid_loss"] for line in lines if line["valid_loss"]] == [
        str(entry["valid_loss"]) for entry in metrics if "valid_loss" in entry
    ]

    listed = [model.id for model in client.models.list()]
    wanted = [done.fine_tuned_model, *(one.fine_tuned_model_checkpoint for one in checkpoints)]
    assert listed[1:5] == wanted
    for model in wanted:
        assert client.models.retrieve(model).id == model


def project_slug(job: Any) -> str:
    """The project of these tests has a random name; its place in the id is between two colons."""
    slug: str = job.fine_tuned_model.split(":")[2]
    assert slug
    assert slug == slug.lower()
    return slug


def test_a_checkpoint_answers_as_a_model_of_its_own(
    client: openai.OpenAI, runner: JobRunner, parts: Wiring, project_id: str, home: Path
) -> None:
    rows = [chat(f"say {n}", "ok") for n in range(8)]
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=upload(client, rows),
        method=supervised(n_epochs=40, batch_size=4),
        extra_body={"recipe": {"learning_rate": 0.02, "rank": 8}},
    )
    assert runner.run(project_id, job.id) == "succeeded"
    newest = next(iter(client.fine_tuning.jobs.checkpoints.list(job.id)))
    assert answer_of(parts, project_id, home, newest.fine_tuned_model_checkpoint) == "ok"
    assert answer_of(parts, project_id, home, "tiny") != "ok"

    again = client.fine_tuning.jobs.create(
        model=newest.fine_tuned_model_checkpoint, training_file=job.training_file, method=supervised(n_epochs=1)
    )
    assert again.model == "tiny"
    assert runner.run(project_id, again.id) == "succeeded"
    first = next(event for event in client.fine_tuning.jobs.list_events(again.id) if event.type == "metrics")
    assert isinstance(first.data, dict)
    assert first.data["train_loss"] == pytest.approx(newest.metrics.train_loss, rel=0.05)


def answer_of(parts: Wiring, project_id: str, home: Path, model: str) -> str:
    """What the generation engine says to "say 3" as this model, greedily."""
    with parts.database.transaction(project_id) as session:
        answerer = resolve(session, home / "models", model)
    adapter = None
    if answerer.adapter is not None:
        adapter = AdapterRef(answerer.adapter.id, parts.storage.local_folder(project_id, answerer.adapter.blob_key))

    @contextlib.contextmanager
    def one_thread() -> Iterator[Callable[[], int]]:
        yield lambda: 1

    engine = Engine(home / "models" / answerer.base_model, share=one_thread, dtype=torch.float32)
    engine.start()
    try:
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "say 3"}]
        sampling = Sampling(temperature=0.0, max_tokens=2)  # a random model may not learn where to stop
        pieces = engine.submit(GenerationRequest(messages=messages, sampling=sampling, adapter=adapter))
        return "".join(piece.text for piece in pieces if isinstance(piece, Delta))
    finally:
        engine.stop()


def test_learns_preferences(client: openai.OpenAI, runner: JobRunner, project_id: str) -> None:
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=upload(client, rewards(8)),
        validation_file=upload(client, rewards(2)),
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 3, "batch_size": 4}}},
        extra_body={"recipe": {"learning_rate": 0.01}},
    )
    assert runner.run(project_id, job.id) == "succeeded"
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.method is not None
    assert done.method.type == "dpo"
    assert done.method.dpo is not None
    assert done.method.dpo.hyperparameters is not None
    assert (done.method.dpo.hyperparameters.beta, done.method.dpo.hyperparameters.n_epochs) == (0.2, 3)
    metrics: list[Any] = [e.data for e in client.fine_tuning.jobs.list_events(job.id) if e.type == "metrics"]
    assert [entry["step"] for entry in metrics] == [6, 5, 4, 3, 2, 1]
    assert metrics[-1]["train_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert metrics[0]["train_loss"] < metrics[-1]["train_loss"]
    assert metrics[0]["train_reward_accuracy"] == 1.0
    assert metrics[0]["valid_reward_margin"] > 0
    pairs = rewards(8)
    sides = [
        {"messages": [*pair["input"]["messages"], *pair[side]]}
        for pair in pairs
        for side in ("preferred_output", "non_preferred_output")
    ]
    assert done.trained_tokens == 3 * sum(tokens_of(side) for side in sides)


def test_says_validating_files_until_training_begins(
    client: openai.OpenAI, runner: JobRunner, project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    run_child = training_run.run_child

    def watched(order: Path, *, on_event: Callable[[Any], None], **rest: Any) -> Any:
        def hear(event: Any) -> None:
            on_event(event)
            seen.append(client.fine_tuning.jobs.retrieve(job.id).status)

        seen.append(client.fine_tuning.jobs.retrieve(job.id).status)
        return run_child(order, on_event=hear, **rest)

    monkeypatch.setattr(training_run, "run_child", watched)
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=upload(client, sums(2)), method=supervised(n_epochs=1, batch_size=2)
    )
    assert runner.run(project_id, job.id) == "succeeded"
    assert seen[0] == "validating_files"
    assert set(seen[1:]) == {"running"}


def test_the_deprecated_hyperparameters_still_count(client: openai.OpenAI) -> None:
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=upload(client, sums(2)), hyperparameters={"n_epochs": 2, "batch_size": 1}
    )
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (2, 1)
    both = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=job.training_file,
        hyperparameters={"n_epochs": 2},
        method=supervised(n_epochs=2, batch_size=2),
    )
    assert (both.hyperparameters.n_epochs, both.hyperparameters.batch_size) == (2, 2)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"method": supervised(foo=1)}, "invalid_input", "method.supervised.hyperparameters.foo"),
        ({"method": supervised(n_epochs=0)}, "invalid_input", "method.supervised.hyperparameters.n_epochs"),
        ({"method": supervised(n_epochs=1.5)}, "invalid_input", "method.supervised.hyperparameters.n_epochs"),
        ({"method": supervised(batch_size="big")}, "invalid_input", "method.supervised.hyperparameters.batch_size"),
        ({"method": supervised(beta=0.1)}, "invalid_input", "method.supervised.hyperparameters.beta"),
        ({"hyperparameters": {"foo": 1}}, "invalid_input", "hyperparameters.foo"),
        (
            {"hyperparameters": {"n_epochs": 1}, "method": supervised(n_epochs=2)},
            "conflicting_hyperparameters",
            "hyperparameters.n_epochs",
        ),
        ({"method": {"type": "reinforcement", "reinforcement": {"grader": {}}}}, "unsupported_method", "method.type"),
        ({"method": {"type": "magic"}}, "invalid_input", "method.type"),
        ({"method": {"type": "supervised", "dpo": {}}}, "invalid_input", "method.dpo"),
        (
            {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0}}}},
            "invalid_input",
            "method.dpo.hyperparameters.beta",
        ),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "unsupported", "integrations"),
        ({"suffix": "a b"}, "invalid_input", "suffix"),
        ({"suffix": "--"}, "invalid_input", "suffix"),
        ({"suffix": "x" * 65}, "invalid_input", "suffix"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "invalid_input", "metadata"),
        ({"metadata": {"k" * 65: "v"}}, "invalid_input", "metadata"),
        ({"metadata": {"k": "v" * 513}}, "invalid_input", "metadata"),
        ({"metadata": {"k": 1}}, "invalid_input", "metadata"),
        ({"seed": -1}, "invalid_input", "seed"),
        ({"training_file": "file-none"}, "file_not_found", "training_file"),
        ({"validation_file": "file-none"}, "file_not_found", "validation_file"),
        ({"model": "gpt-none"}, "model_not_found", "model"),
        ({"extra_body": {"recipe": {"lr": 1}}}, "invalid_recipe", "recipe.lr"),
        ({"extra_body": {"n_epochs": 1}}, "invalid_input", "n_epochs"),
    ],
)
def test_refuses_by_name_what_it_cannot_honour(
    client: openai.OpenAI, fields: dict[str, Any], code: str, param: str
) -> None:
    wanted = {"model": "tiny", "training_file": upload(client, sums(1))} | fields
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as refused:
        client.fine_tuning.jobs.create(**wanted)
    assert (refused.value.code, refused.value.param) == (code, param), refused.value.message
    assert list(client.fine_tuning.jobs.list()) == []


def test_refuses_files_that_cannot_be_trained_on(client: openai.OpenAI) -> None:
    good = upload(client, sums(1))
    for bad, code in [
        (upload(client, sums(1), purpose="assistants"), "invalid_file_purpose"),
        (upload(client, []), "no_training_examples"),
    ]:
        with pytest.raises(openai.BadRequestError) as refused:
            client.fine_tuning.jobs.create(model="tiny", training_file=bad)
        assert (refused.value.code, refused.value.param) == (code, "training_file")
        with pytest.raises(openai.BadRequestError) as refused:
            client.fine_tuning.jobs.create(model="tiny", training_file=good, validation_file=bad)
        assert (refused.value.code, refused.value.param) == (code, "validation_file")


def test_a_job_whose_files_are_wrong_fails_naming_file_and_line(
    client: openai.OpenAI, runner: JobRunner, project_id: str
) -> None:
    good, bad = sums(3), [*sums(4), {"messages": [{"role": "user", "content": "no answer"}]}]
    for fields, param, line in [
        ({"training_file": upload(client, bad)}, "training_file", 5),
        ({"training_file": upload(client, good), "validation_file": upload(client, bad)}, "validation_file", 5),
        ({"training_file": upload(client, good), "method": {"type": "dpo"}}, "training_file", 1),
    ]:
        job = client.fine_tuning.jobs.create(model="tiny", **fields)
        assert runner.run(project_id, job.id) == "failed"
        failed = client.fine_tuning.jobs.retrieve(job.id)
        assert failed.status == "failed"
        assert failed.error is not None
        assert (failed.error.code, failed.error.param) == ("invalid_training_file", param)
        assert f"{param} (rows.jsonl), line {line}:" in failed.error.message
        newest = next(iter(client.fine_tuning.jobs.list_events(job.id)))
        assert (newest.level, failed.error.message in newest.message) == ("error", True)


def test_its_events_tell_how_it_ended_whichever_door_it_was_steered_at(
    client: openai.OpenAI, runner: JobRunner, project_id: str
) -> None:
    def told(job_id: str) -> list[str]:
        return [event.message for event in client.fine_tuning.jobs.list_events(job_id)]

    job = client.fine_tuning.jobs.create(model="tiny", training_file=upload(client, sums(2)))
    created = f"Created fine-tuning job: {job.id}"
    for steer in ("pause", "resume", "cancel"):
        client.post(f"/jobs/{job.id}/{steer}", cast_to=object)
    assert told(job.id) == ["Fine-tuning job cancelled", "Fine-tuning job paused", created]


@pytest.mark.parametrize("wish", ["cancel", "pause", None])
def test_its_events_tell_how_it_ended_without_a_worker(
    client: openai.OpenAI, parts: Wiring, project_id: str, wish: str | None
) -> None:
    """Its last worker died: the leader among the dispatchers ends it."""
    job = client.fine_tuning.jobs.create(model="tiny", training_file=upload(client, sums(2)))
    died = {"status": "running", "worker": "dead", "attempt": 3, "lease_expires_at": sa.func.now()}
    died |= {f"{wish}_requested": True} if wish else {}
    with parts.database.transaction(project_id) as session:
        session.execute(sa.update(jobs.Job).where(jobs.Job.id == job.id).values(died))
    with parts.database.system_transaction() as session:
        session.execute(sa.text("SELECT * FROM requeue_expired_jobs()"))
    newest = next(iter(client.fine_tuning.jobs.list_events(job.id)))
    if wish:
        assert newest.message == {"cancel": "Fine-tuning job cancelled", "pause": "Fine-tuning job paused"}[wish]
    else:
        assert newest.level == "error"
        assert newest.message.startswith("Fine-tuning job failed: The worker died or fell silent on all 3 attempts")


@pytest.mark.parametrize("checkpoint", [False, True])
def test_goes_on_from_no_model_whose_deletion_is_ordered(
    client: openai.OpenAI, parts: Wiring, project_id: str, checkpoint: bool
) -> None:
    file = upload(client, sums(2))
    weights: dict[str, Any] = {"id": new_id("w_"), "project_id": project_id, "model_id": "ft:tiny:p::1"}
    weights |= {"base_model": "tiny", "blob_key": "", "metrics": {}}
    with parts.database.transaction(project_id) as session:
        if checkpoint:
            made = client.fine_tuning.jobs.create(model="tiny", training_file=file)
            session.add(CheckpointRow(**weights, job_id=made.id, step=1))
        else:
            session.add(AdapterRow(**weights, job_id="", recipe={}, train_seconds=1.0, trained_tokens=1))
    client.models.delete("ft:tiny:p::1")
    with pytest.raises(openai.NotFoundError) as refused:
        client.fine_tuning.jobs.create(model="ft:tiny:p::1", training_file=file)
    assert refused.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as refused:
        client.fine_tuning.jobs.create(model="tiny", training_file=file, extra_body={"init_adapter": weights["id"]})
    assert refused.value.code == "adapter_not_found"


def test_keeps_an_old_checkpoint_while_a_job_goes_on_from_it(
    client: openai.OpenAI, parts: Wiring, project_id: str
) -> None:
    file = upload(client, sums(2))
    running = client.fine_tuning.jobs.create(model="tiny", training_file=file)

    def checkpoint(step: int) -> list[str]:
        row = CheckpointRow(id=f"{running.id}:{step}", project_id=project_id, job_id=running.id, step=step, metrics={})
        row.model_id, row.base_model, row.blob_key = f"ft:tiny:p::{step}", "tiny", f"key {step}"
        with parts.database.transaction(project_id) as session:
            return repository.record_checkpoint(session, row)

    checkpoint(1)
    going_on = client.fine_tuning.jobs.create(model="ft:tiny:p::1", training_file=file)
    assert [checkpoint(step) for step in (2, 3, 4, 5)] == [[], [], [], ["key 2"]]
    client.fine_tuning.jobs.cancel(going_on.id)
    assert checkpoint(6) == ["key 3", "key 1"]


def test_keeps_the_best_checkpoint_of_a_job_that_is_cancelled(
    client: openai.OpenAI, parts: Wiring, project_id: str
) -> None:
    job = client.fine_tuning.jobs.create(model="tiny", training_file=upload(client, sums(2)))

    def checkpoint(step: int, loss: float) -> list[str]:
        row = CheckpointRow(id=f"{job.id}:{step}", project_id=project_id, job_id=job.id, step=step)
        row.model_id, row.base_model, row.blob_key = f"ft:tiny:p::{step}", "tiny", f"key {step}"
        row.metrics = dict.fromkeys(CheckpointMetrics.model_fields) | {"step": step, "valid_loss": loss}
        with parts.database.transaction(project_id) as session:
            return repository.record_checkpoint(session, row)

    dropped = [checkpoint(step, loss) for step, loss in enumerate([3.0, 1.0, 2.0, 2.5, 2.2, 2.1], start=1)]
    assert dropped == [[], [], [], ["key 1"], [], ["key 3"]]
    client.fine_tuning.jobs.cancel(job.id)
    left = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=2))
    assert [one.step_number for one in left] == [6, 5, 4, 2]
    assert client.models.retrieve("ft:tiny:p::2").id == "ft:tiny:p::2"
    assert checkpoint(7, 0.9) == ["key 4", "key 2"], "a better one takes its place"


def test_refuses_to_steer_a_job_where_that_makes_no_sense(
    client: openai.OpenAI, runner: JobRunner, project_id: str
) -> None:
    jobs = client.fine_tuning.jobs
    job = jobs.create(model="tiny", training_file=upload(client, sums(2)), method=supervised(n_epochs=1))
    with pytest.raises(openai.BadRequestError, match="queued, not paused"):
        jobs.resume(job.id)
    assert jobs.pause(job.id).status == "paused"
    with pytest.raises(openai.BadRequestError, match="paused already"):
        jobs.pause(job.id)
    assert runner.run(project_id, job.id) == "unclaimed"
    assert jobs.resume(job.id).status == "queued"
    assert jobs.cancel(job.id).status == "cancelled"
    for steer in (jobs.cancel, jobs.pause, jobs.resume):
        with pytest.raises(openai.BadRequestError, match="already cancelled"):
            steer(job.id)
    told = [event.message for event in jobs.list_events(job.id)]
    assert told == ["Fine-tuning job cancelled", "Fine-tuning job paused", f"Created fine-tuning job: {job.id}"]


def test_lists_to_the_end_and_by_metadata(client: openai.OpenAI) -> None:
    file = upload(client, sums(1))
    made = [
        client.fine_tuning.jobs.create(model="tiny", training_file=file, metadata={"n": str(n % 2)}).id
        for n in range(5)
    ]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=2)] == made[::-1]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=1, metadata={"n": "1"})] == [made[3], made[1]]
    for listed in (
        lambda: client.fine_tuning.jobs.list(after="ftjob-none"),
        lambda: client.fine_tuning.jobs.list_events(made[0], after="ftevent-x"),
        lambda: client.fine_tuning.jobs.checkpoints.list(made[0], after="ftckpt_none"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            listed()
        assert refused.value.param == "after"


def test_refuses_permissions_by_name(client: openai.OpenAI) -> None:
    permissions = client.fine_tuning.checkpoints.permissions
    checkpoint = "ft:some/base:p::12345678:ckpt-step-3"
    for call in (
        lambda: permissions.list(checkpoint),
        lambda: permissions.create(checkpoint, project_ids=["p"]),
        lambda: permissions.delete("cp_1", fine_tuned_model_checkpoint=checkpoint),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            call()
        assert refused.value.code == "unsupported"


def add_store(parts: Wiring, client: openai.OpenAI, project_id: str, texts: dict[str, str], status: str) -> str:
    """A vector store as indexing leaves it, but for its passages, which training does not read."""
    store_id = new_id("vs_")
    files = {
        name: client.files.create(file=(name, text.encode()), purpose="assistants").id for name, text in texts.items()
    }
    with parts.database.transaction(project_id) as session:
        session.execute(
            sa.text(
                "INSERT INTO vector_stores (id, project_id, name, embedder, chunking, metadata, status) "
                "VALUES (:store, :project, 'manual', 'e', '{}', '{}', :status)"
            ),
            {"project": project_id, "store": store_id, "status": status},
        )
        attach(session, project_id, store_id, files)
    return store_id


def attach(session: Session, project_id: str, store_id: str, files: dict[str, str]) -> None:
    """Files by name in a store, as indexed."""
    for name, file_id in files.items():
        row = {"project": project_id, "store": store_id, "id": new_id("doc_"), "file": file_id, "name": name}
        session.execute(
            sa.text(
                "INSERT INTO vector_store_files (vector_store_id, file_id, project_id, filename, attributes, "
                "status) VALUES (:store, :file, :project, :name, '{}', 'completed')"
            ),
            row,
        )
        session.execute(
            sa.text(
                "INSERT INTO documents (id, project_id, vector_store_id, file_id, key, title) "
                "VALUES (:id, :project, :store, :file, :name, :name)"
            ),
            row,
        )


CONTINUED: Any = {"type": "continued_pretraining"}


@pytest.mark.parametrize("source", ["store", "file"])
def test_goes_on_pretraining_on_documents(
    client: openai.OpenAI, runner: JobRunner, parts: Wiring, project_id: str, source: str
) -> None:
    texts = {f"{n}.md": f"# Valve {n}\nThe valve {n} is open. The pump stays off." for n in range(12)}
    texts["copy.md"] = texts["0.md"]
    if source == "store":
        corpus = add_store(parts, client, project_id, texts, "completed")
    else:
        corpus = upload(client, [{"text": text} for text in texts.values()])
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=corpus,
        method=CONTINUED | {CONTINUED["type"]: {"hyperparameters": {"n_epochs": 6}}},
        extra_body={"recipe": {"learning_rate": 0.02, "rank": 4, "max_length": 40, "validation_share": 0.2}},
    )
    assert (job.training_file, job.hyperparameters.batch_size) == (corpus, "auto")
    assert runner.run(project_id, job.id) == "succeeded", client.fine_tuning.jobs.retrieve(job.id).error
    done = client.fine_tuning.jobs.retrieve(job.id)
    events = list(client.fine_tuning.jobs.list_events(job.id))
    told = [event.message for event in events if event.type == "message"]
    assert "Held out 2 of 13 documents for validation" in told
    metrics: list[Any] = [event.data for event in reversed(events) if event.type == "metrics"]
    valid = [entry["valid_loss"] for entry in metrics if "valid_loss" in entry]
    assert len(valid) == 6
    assert valid[-1] < 0.7 * valid[0]
    characters = sum(len(text) + 1 for text in texts.values())  # a token a character, and each document's end
    held = characters - (done.trained_tokens or 0) / 6
    assert 0 < held <= 0.2 * characters
    assert done.method is not None
    assert done.method.to_dict()["type"] == "continued_pretraining"


@pytest.mark.parametrize("meanwhile", ["grows", "loses files"])
def test_a_later_attempt_learns_from_the_vector_store_as_the_first_found_it(
    client: openai.OpenAI,
    runner: JobRunner,
    parts: Wiring,
    project_id: str,
    monkeypatch: pytest.MonkeyPatch,
    meanwhile: str,
) -> None:
    texts = {f"{n}.md": f"The valve {n} is open." for n in range(4)}
    store = add_store(parts, client, project_id, texts, "completed")
    recipe = {"max_steps": 2, "rank": 2, "max_length": 40}
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=store, method=CONTINUED, extra_body={"recipe": recipe}
    )
    rows: list[str] = []

    def hands_over(order: Path, **_: Any) -> Any:
        rows.append(json.loads(order.read_text())["data_sha256"])
        raise TrainingChildStopped("handover", saved=False)

    def runs(order: Path, **given: Any) -> Any:
        rows.append(json.loads(order.read_text())["data_sha256"])
        return run_child(order, **given)

    monkeypatch.setattr(training_run, "run_child", hands_over)
    assert runner.run(project_id, job.id) == "handed over"
    assert [filename for filename, _ in held_files(parts, project_id)] == sorted(texts)
    if meanwhile == "grows":
        with parts.database.transaction(project_id) as session:
            attach(session, project_id, store, {"new.md": upload(client, [{"text": "another"}])})
            session.execute(sa.text("UPDATE vector_stores SET status = 'in_progress' WHERE id = :i"), {"i": store})
    else:
        for file in client.files.list():
            client.files.delete(file.id)

    monkeypatch.setattr(training_run, "run_child", runs)
    assert runner.run(project_id, job.id) == "succeeded", client.fine_tuning.jobs.retrieve(job.id).error
    assert len(rows) == 2
    assert rows[0] == rows[1]
    assert held_files(parts, project_id) == []


def held_files(parts: Wiring, project_id: str) -> list[tuple[str, str]]:
    """(name, blob key) of what the project's jobs and searches hold."""
    query = sa.select(HeldFile.filename, HeldFile.blob_key).order_by(
        HeldFile.owner_id, HeldFile.param, HeldFile.position
    )
    with parts.database.transaction(project_id) as session:
        return [(name, key) for name, key in session.execute(query)]


@pytest.mark.parametrize("gone", ["deleted", "expired"])
def test_trains_to_its_end_on_files_that_are_gone_since_it_was_ordered(
    client: openai.OpenAI, runner: JobRunner, parts: Wiring, project_id: str, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    files = {name: upload(client, sums(8, first)) for name, first in (("training_file", 0), ("validation_file", 20))}
    recipe = {"max_steps": 2, "rank": 2, "replay_ratio": 0.2}
    old = {"recipe": recipe, "replay_file": upload(client, sums(4, 40))}
    job = client.fine_tuning.jobs.create(model="tiny", **files, extra_body=old)
    held = held_files(parts, project_id)
    assert len(held) == 3
    if gone == "deleted":
        for file in client.files.list():
            client.files.delete(file.id)
    else:
        with parts.database.transaction(project_id) as session:
            session.execute(sa.update(File).values(expires_at=sa.func.now()))
            purge = jobs.send(session, project_id, PurgeExpired()).id
        assert JobRunner(parts, DATA_HANDLERS, worker="data").run(project_id, purge) == "succeeded"
    assert list(client.files.list()) == []

    def stops(*_: Any, **__: Any) -> Any:
        raise TrainingChildStopped("handover", saved=False)

    with monkeypatch.context() as patched:
        patched.setattr(training_run, "run_child", stops)
        assert runner.run(project_id, job.id) == "handed over"
    assert runner.run(project_id, job.id) == "succeeded", client.fine_tuning.jobs.retrieve(job.id).error
    assert held_files(parts, project_id) == []
    for _, key in held:
        with pytest.raises(BlobMissing):
            parts.storage.open(project_id, key)


def test_a_job_that_is_cancelled_while_it_waits_lets_its_files_go(
    client: openai.OpenAI, parts: Wiring, project_id: str
) -> None:
    file = upload(client, sums(8))
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file)
    ((_, key),) = held_files(parts, project_id)
    client.files.delete(file)
    with parts.storage.open(project_id, key) as kept:
        assert kept.read()
    client.fine_tuning.jobs.cancel(job.id)
    assert release(parts, project_id) == ["succeeded"]
    assert held_files(parts, project_id) == []
    with pytest.raises(BlobMissing):
        parts.storage.open(project_id, key)


def release(parts: Wiring, project_id: str) -> list[str]:
    """Let the search worker do what ends of trainings have ordered."""
    query = sa.select(jobs.Job.id).where(jobs.Job.kind == ReleaseTraining.kind, jobs.Job.status == "queued")
    with parts.database.transaction(project_id) as session:
        ordered = list(session.scalars(query))
    return [JobRunner(parts, RELEASE_HANDLERS, worker="search").run(project_id, job_id) for job_id in ordered]


@pytest.mark.parametrize("ends", ["cancelled at the jobs door", "without a worker", "by an error without a name"])
def test_a_job_lets_its_state_and_its_files_go_however_it_ends(
    client: openai.OpenAI,
    runner: JobRunner,
    parts: Wiring,
    project_id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends: str,
) -> None:
    def breaks(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a defect")

    job = client.fine_tuning.jobs.create(model="tiny", training_file=upload(client, sums(8)))
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "weights").write_bytes(b"of step 4")
    key = parts.storage.put_folder(project_id, tmp_path / "state").key
    with parts.database.transaction(project_id) as session:
        row, order = repository.get_job(session, job.id)
        row.resume_step, row.resume_blob_key, order.max_attempts = 4, key, 1
    if ends == "cancelled at the jobs door":
        client.post(f"/jobs/{job.id}/cancel", cast_to=object)
    elif ends == "without a worker":
        died = {"status": "running", "worker": "dead", "attempt": 1, "lease_expires_at": sa.func.now()}
        with parts.database.transaction(project_id) as session:
            session.execute(sa.update(jobs.Job).where(jobs.Job.id == job.id).values(died))
        with parts.database.system_transaction() as session:
            session.execute(sa.text("SELECT * FROM requeue_expired_jobs()"))
    else:
        monkeypatch.setattr(training_run, "run_child", breaks)
        assert runner.run(project_id, job.id) == "failed"
    assert release(parts, project_id) == ["succeeded"]
    with parts.database.transaction(project_id) as session:
        row, _ = repository.get_job(session, job.id)
        assert (row.resume_step, row.resume_blob_key) == (None, None)
    assert held_files(parts, project_id) == []
    with pytest.raises(BlobMissing):
        parts.storage.open(project_id, key)


def test_refuses_documents_where_they_cannot_be_learned(
    client: openai.OpenAI, parts: Wiring, project_id: str, runner: JobRunner
) -> None:
    ready, waiting = (add_store(parts, client, project_id, {"a.md": "a"}, s) for s in ("completed", "in_progress"))
    for fields, code, param in [
        ({"training_file": ready}, "unsupported", "training_file"),
        ({"training_file": waiting, "method": CONTINUED}, "vector_store_not_ready", "training_file"),
        ({"training_file": "vs_none", "method": CONTINUED}, "vector_store_not_found", "training_file"),
        ({"training_file": ready, "validation_file": "vs_none", "method": CONTINUED}, "vector_store_not_found", None),
        ({"training_file": "ds_none", "method": CONTINUED}, None, None),
        (
            {"training_file": ready, "method": CONTINUED, "extra_body": {"max_passage_tokens": 5}},
            "invalid_input",
            "max_passage_tokens",
        ),
        (
            {"training_file": upload(client, sums(1)), "extra_body": {"recipe": {"validation_share": 0.5}}},
            "invalid_recipe",
            "recipe.validation_share",
        ),
        (
            {"training_file": ready, "method": CONTINUED, "extra_body": {"recipe": {"objective": "dpo"}}},
            "conflicting_hyperparameters",
            "method.type",
        ),
    ]:
        with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as refused:
            client.fine_tuning.jobs.create(model="tiny", **fields)
        assert code in (None, refused.value.code), refused.value.message
        assert param in (None, refused.value.param), refused.value.message
    job = client.fine_tuning.jobs.create(model="tiny", training_file=upload(client, sums(3)), method=CONTINUED)
    assert runner.run(project_id, job.id) == "failed"
    failed = client.fine_tuning.jobs.retrieve(job.id)
    assert failed.error is not None
    assert "training_file (rows.jsonl), line 1: `messages` is not supported" in failed.error.message


@pytest.mark.parametrize("kind", ["chats", "texts"])
def test_replays_old_examples_beside_the_new_ones(
    client: openai.OpenAI, runner: JobRunner, project_id: str, kind: str
) -> None:
    old = [chat(f"say {n}", "ok") for n in range(5)] if kind == "chats" else [{"text": f"ok {n}"} for n in range(5)]
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=upload(client, sums(9)),
        method=supervised(n_epochs=1, batch_size=4),
        extra_body={"replay_file": upload(client, old), "recipe": {"replay_ratio": 0.25}},
    )
    assert runner.run(project_id, job.id) == "succeeded", client.fine_tuning.jobs.retrieve(job.id).error
    metrics: list[Any] = [e.data for e in client.fine_tuning.jobs.list_events(job.id) if e.type == "metrics"]
    assert len(metrics) == 3, "three new examples a step beside one old"
    each = tokens_of(old[0]) if kind == "chats" else 1 + len("ok 1") + 1  # what begins a text, and its end
    assert [entry["replay_tokens"] for entry in metrics] == [each] * 3
    assert all(entry["replay_loss"] > 0 for entry in metrics)
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.trained_tokens == sum(map(tokens_of, sums(9))) + 3 * each


def test_refuses_a_replay_that_cannot_be(client: openai.OpenAI) -> None:
    chats = upload(client, sums(3))
    for extra, code, param in [
        ({"replay_file": chats}, "invalid_input", "replay_file"),
        ({"recipe": {"replay_ratio": 0.1}}, "invalid_recipe", "recipe.replay_ratio"),
        ({"replay_file": "file-none", "recipe": {"replay_ratio": 0.1}}, "file_not_found", "replay_file"),
    ]:
        with pytest.raises(openai.BadRequestError) as refused:
            client.fine_tuning.jobs.create(model="tiny", training_file=chats, extra_body=extra)
        assert (refused.value.code, refused.value.param) == (code, param)


def test_refuses_a_start_of_the_wrong_kind_when_the_job_is_created(
    client: openai.OpenAI, runner: JobRunner, project_id: str
) -> None:
    """Whole models and adapters cannot go on from each other's weights."""
    chats = upload(client, sums(4))
    made: dict[str, list[str]] = {}
    for tune in ("lora", "full"):
        job = client.fine_tuning.jobs.create(
            model="tiny", training_file=chats, extra_body={"recipe": {"tune": tune, "max_steps": 1}}
        )
        assert runner.run(project_id, job.id) == "succeeded"
        checkpoint = next(iter(client.fine_tuning.jobs.checkpoints.list(job.id))).fine_tuned_model_checkpoint
        made[tune] = [str(client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model), checkpoint]
    for tune, starts in [("full", made["lora"]), ("lora", made["full"]), ("qlora", made["full"])]:
        for start in starts:
            with pytest.raises(openai.BadRequestError) as refused:
                client.fine_tuning.jobs.create(model=start, training_file=chats, extra_body={"recipe": {"tune": tune}})
            assert (refused.value.code, refused.value.param) == ("adapter_mismatch", "recipe.tune")
    for tune, start in [("full", made["full"][0]), ("lora", made["lora"][1])]:
        job = client.fine_tuning.jobs.create(
            model=start, training_file=chats, extra_body={"recipe": {"tune": tune, "max_steps": 1}}
        )
        assert job.status == "queued"


def test_refuses_four_bits_at_once_where_the_library_is_missing(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantisation, "find_spec", lambda _name: None)
    with pytest.raises(openai.BadRequestError, match="pip install") as refused:
        client.fine_tuning.jobs.create(
            model="tiny", training_file=upload(client, sums(1)), extra_body={"recipe": {"tune": "qlora"}}
        )
    assert (refused.value.code, refused.value.param) == ("quantisation_unavailable", "recipe.tune")


def test_an_adapter_trained_beside_four_bits_answers_on_the_whole_base(
    client: openai.OpenAI, runner: JobRunner, parts: Wiring, project_id: str, home: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=upload(client, [chat(f"say {n}", "ok") for n in range(8)]),
        method=supervised(n_epochs=30, batch_size=4),
        extra_body={"recipe": {"base": "qlora", "learning_rate": 0.02, "rank": 8}},
    )
    assert runner.run(project_id, job.id) == "succeeded", client.fine_tuning.jobs.retrieve(job.id).error
    tuned = client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model
    assert answer_of(parts, project_id, home, str(tuned)) == "ok"
