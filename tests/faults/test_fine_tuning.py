"""A training worker that is killed loses nothing that a client can see: every step once, in events and result file."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from services.training import repository
from services.training.handlers import NewTrainingJob, create_fine_tuning_job
from services.training.recipe import Recipe
from services.training.settings import TrainingSettings
from shared.database import Database
from shared.files import File, store_file
from shared.jobs.tables import Job
from shared.prompt_format import PromptSpec
from shared.storage import Storage
from tests.factories.tiny_model import make_tiny_model
from tests.fakes.processes import dispatcher, killed_at_the_end, wait_until, worker

pytestmark = pytest.mark.stack
STEPS = 160


def chats(count: int) -> bytes:
    turns = [
        [{"role": "user", "content": f"{n}+2?"}, {"role": "assistant", "content": str(n + 2)}] for n in range(count)
    ]
    return b"".join(json.dumps({"messages": turn}).encode() + b"\n" for turn in turns)


def order(database: Database, storage: Storage, project_id: str, home: Path) -> str:
    recipe = Recipe(batch_size=1, epochs=STEPS / 4, save_steps=5, rank=2, patience=None, learning_rate=0.01)
    with database.transaction(project_id) as session:
        files = [
            store_file(session, storage, project_id, filename=name, purpose="fine-tune", chunks=chats(4)).id
            for name in ("train.jsonl", "valid.jsonl")
        ]
        wanted = NewTrainingJob(
            model="tiny",
            dataset_id=None,
            training_file=files[0],
            validation_file=files[1],
            replay_file=None,
            recipe=recipe,
            auto=[],
            suffix=None,
            metadata={},
            prompt=PromptSpec(),
            max_passage_tokens=None,
            init_adapter=None,
        )
        settings = TrainingSettings(home=home)
        return create_fine_tuning_job(session, project_id, wanted, settings)[1].id


def test_killed_again_and_again_it_loses_and_repeats_no_step(
    stack_environment: dict[str, str], database: Database, project_id: str, tmp_path: Path
) -> None:
    make_tiny_model(tmp_path / "models" / "tiny")
    storage = Storage(f"file://{tmp_path / 'blobs'}", cache=tmp_path / "cache")
    job_id = order(database, storage, project_id, tmp_path)

    def recorded() -> int:
        with database.transaction(project_id) as session:
            return repository.recorded_step(session, job_id)

    def status() -> str:
        with database.transaction(project_id) as session:
            return session.get_one(Job, job_id).status

    environment = stack_environment | {"UPLIFT_HOME": str(tmp_path)}
    relay = dispatcher(environment, tmp_path)
    kills = 0
    with killed_at_the_end(relay):
        for beyond in (7, 23):
            running = worker(environment, tmp_path, app="services.training.worker", slots=1)
            with killed_at_the_end(running):
                wait_until(lambda: recorded() > beyond or status() == "succeeded", seconds=120)  # noqa: B023
            kills += status() != "succeeded"
        running = worker(environment, tmp_path, app="services.training.worker", slots=1)
        with killed_at_the_end(running):
            wait_until(lambda: status() in {"succeeded", "failed"}, seconds=180)
    assert status() == "succeeded"
    assert kills > 0, "it was done before it could be killed: give it more steps"

    with database.transaction(project_id) as session:
        row, job = repository.get_job(session, job_id)
        metrics = list(repository.metrics(session, job_id))
        result = session.get_one(File, row.result_files[0])
        checkpoints, _ = repository.list_checkpoints(session, job_id, after=None, limit=10)
        resumed = session.scalars(
            sa.text("SELECT count(*) FROM job_events WHERE job_id = :j AND message LIKE '%resumed at step%'"),
            {"j": job_id},
        ).one()
    assert job.attempt == kills + 1
    assert resumed == kills
    assert [entry["step"] for entry in metrics] == list(range(1, STEPS + 1))
    lines: list[dict[str, Any]] = list(
        csv.DictReader(io.StringIO(storage.open(project_id, result.blob_key).read().decode()))
    )
    assert [int(line["step"]) for line in lines] == list(range(1, STEPS + 1))
    assert [float(line["train_loss"]) for line in lines] == [entry["train_loss"] for entry in metrics]
    assert [bool(line["valid_loss"]) for line in lines] == [step % 4 == 0 for step in range(1, STEPS + 1)]
    best = min((entry["valid_loss"], entry["step"]) for entry in metrics if "valid_loss" in entry)[1]
    newest_and_best = {STEPS, STEPS - 4, STEPS - 8, best}
    assert [checkpoint.step for checkpoint in checkpoints] == sorted(newest_and_best, reverse=True)
    assert row.resume_blob_key is None
    assert row.trained_tokens == sum(entry["tokens"] for entry in metrics)
