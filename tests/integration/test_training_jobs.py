"""Fine-tuning jobs on the real database with a real child process and a tiny model."""

import errno
import json
import random
import shutil
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import Request
from fastapi.testclient import TestClient
from peft import PeftModel
from transformers import AutoModelForCausalLM

from services.training import training_run
from services.training.child import run_child
from services.training.domain import LEARNED_FILE
from services.training.errors import OutOfMemory
from services.training.handlers import JOB_HANDLERS
from services.training.lora import whole_folders
from services.training.order import StateSaved, Stepped
from services.training.recipe import Recipe
from services.training.recorder import Recorder
from services.training.routes import router
from services.training.settings import TrainingSettings
from shared import jobs
from shared.clock import now
from shared.database import Database
from shared.ids import new_id
from shared.jobs import HandOver
from shared.jobs.runner import JobRunner
from shared.messages import OrderTraining
from shared.prompt_format import PromptSpec
from shared.settings import Settings
from shared.storage import Storage
from shared.web import Caller, create_app
from shared.wiring import Wiring
from tests.conftest import make_project
from tests.factories.tiny_model import make_tiny_model
from tests.fakes.processes import wait_until

pytestmark = pytest.mark.stack
QUICK = {"max_steps": 6, "batch_size": 4, "rank": 2, "save_steps": 2, "max_length": 400}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training-home")
    make_tiny_model(folder / "models" / "tiny")
    return folder


@pytest.fixture
def training_wiring(wiring: Wiring, settings: Settings, home: Path) -> Wiring:
    return replace(wiring, settings=TrainingSettings(**settings.model_dump() | {"home": home}))


@pytest.fixture
def runner(training_wiring: Wiring) -> JobRunner:
    return JobRunner(training_wiring, JOB_HANDLERS, worker="test")


@pytest.fixture
def client(
    training_wiring: Wiring, project_id: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    monkeypatch.setenv("UPLIFT_HOME", str(home))

    async def access(request: Request, _parts: Wiring) -> Caller:
        project = request.headers.get("x-project", project_id)
        return Caller(project, "tests", "org", "key", ("write",), "req")

    unclosed = replace(training_wiring)
    unclosed.close = lambda: None  # type: ignore[method-assign]
    with TestClient(create_app("t", [router], wiring_factory=lambda: unclosed, access=access)) as open_client:
        yield open_client


def add_dataset(database: Database, project_id: str, *, status: str = "ready", passages: bool = False) -> str:
    dataset_id = new_id("ds_")
    with database.transaction(project_id) as session:
        session.execute(
            sa.text(
                "INSERT INTO datasets (id, project_id, name, status, sha256, sizes, lineage, spec) "
                "VALUES (:id, :project, 'sums', :status, 'x', '{}', '{}', '{}')"
            ),
            {"id": dataset_id, "project": project_id, "status": status},
        )
        for position in range(16):
            question = f"{position}+1?"
            found = [{"id": "p", "document_id": "d", "title": "sum", "text": f"it is {position + 1}"}]
            session.execute(
                sa.text(
                    "INSERT INTO examples (id, project_id, dataset_id, position, split, messages, answer, documents, "
                    "cluster, metadata, provenance, passages) VALUES (:id, :project, :dataset, :position, :split, "
                    ":messages, :answer, '{}', 'c', '{}', '{}', :passages)"
                ),
                {
                    "id": new_id("ex_"),
                    "project": project_id,
                    "dataset": dataset_id,
                    "position": position,
                    "split": ["train", "train", "validation", "test"][position % 4],
                    "messages": json.dumps([{"role": "user", "content": question}]),
                    "answer": str(position + 1),
                    "passages": json.dumps(found) if passages else None,
                },
            )
    return dataset_id


def add_file(wiring: Wiring, project_id: str, content: bytes) -> str:
    blob = wiring.storage.put_bytes(project_id, content)
    file_id = new_id("file-")
    with wiring.database.transaction(project_id) as session:
        session.execute(
            sa.text(
                "INSERT INTO files (id, project_id, filename, purpose, bytes, sha256, blob_key) "
                "VALUES (:id, :project, 'chats.jsonl', 'fine-tune', :size, :sha, :key)"
            ),
            {"id": file_id, "project": project_id, "size": blob.size, "sha": blob.sha256, "key": blob.key},
        )
    return file_id


def chats(count: int = 8) -> bytes:
    turns = [
        [{"role": "user", "content": f"{n}+2?"}, {"role": "assistant", "content": str(n + 2)}] for n in range(count)
    ]
    return b"".join(json.dumps({"messages": turn}).encode() + b"\n" for turn in turns)


def create(client: TestClient, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/fine_tuning/jobs", json={"model": "tiny", "recipe": QUICK} | fields)
    assert answer.status_code == 200, answer.text
    created: dict[str, Any] = answer.json()
    return created


def show(client: TestClient, job_id: str) -> dict[str, Any]:
    shown: dict[str, Any] = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    return shown


def test_trains_a_dataset_into_an_adapter_that_peft_loads(
    client: TestClient, runner: JobRunner, training_wiring: Wiring, project_id: str, home: Path
) -> None:
    dataset_id = add_dataset(training_wiring.database, project_id)
    job = create(client, dataset=dataset_id, suffix="sums", seed=5, metadata={"team": "a"})
    assert (job["status"], job["training_file"], job["seed"]) == ("queued", dataset_id, 5)
    assert runner.run(project_id, job["id"]) == "succeeded"

    done = show(client, job["id"])
    assert done["status"] == "succeeded"
    assert done["fine_tuned_model"].startswith("ft:tiny:")
    assert ":sums:" in done["fine_tuned_model"]
    assert done["trained_tokens"] > 0
    assert done["result"]["model_id"] == done["fine_tuned_model"]
    events = client.get(f"/v1/fine_tuning/jobs/{job['id']}/events", params={"limit": 100}).json()["data"]
    metrics = [event["data"] for event in events if event["type"] == "metrics"]
    assert [entry["step"] for entry in metrics] == [6, 5, 4, 3, 2, 1]
    assert metrics[0]["valid_loss"] > 0
    saved = client.get(f"/v1/fine_tuning/jobs/{job['id']}/checkpoints").json()["data"]
    assert [checkpoint["step_number"] for checkpoint in saved] == [6, 4, 2]
    assert saved[1]["metrics"]["train_loss"] == metrics[2]["train_loss"]
    assert saved[1]["fine_tuned_model_checkpoint"] == f"{done['fine_tuned_model']}:ckpt-step-4"

    with training_wiring.database.transaction(project_id) as session:
        key = session.execute(sa.text("SELECT blob_key FROM adapters")).scalar_one()
    folder = training_wiring.storage.local_folder(project_id, key)
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(home / "models" / "tiny"), folder)
    assert len(json.loads((folder / LEARNED_FILE).read_text())["data_sha256"]) == 64
    assert (folder / "tokenizer.json").exists()
    assert not (home / "work" / "training" / job["id"]).exists()


def test_an_order_names_its_adapter_and_continues_from_another(
    client: TestClient, runner: JobRunner, training_wiring: Wiring, project_id: str
) -> None:
    database = training_wiring.database
    dataset_id = add_dataset(database, project_id, passages=True)

    def order(recipe: dict[str, Any], init: str | None) -> dict[str, Any]:
        command = OrderTraining(
            dataset_id=dataset_id,
            base_model="tiny",
            recipe=recipe,
            prompt=PromptSpec(with_passages=True).model_dump(mode="json"),
            max_passage_tokens=200,
            init_adapter_id=init,
            suffix="raft",
            seed=1,
        )
        with database.transaction(project_id) as session:
            job_id = jobs.send(session, project_id, command, job_id=new_id("ftjob-")).id
        assert runner.run(project_id, job_id) == "succeeded"
        result: dict[str, Any] = show(client, job_id)["result"]
        return result | {"job": job_id}

    first = order(QUICK | {"learning_rate": 0.05, "epochs": 20, "max_steps": 40}, None)
    second = order(QUICK | {"rank": 8, "max_steps": 1, "learning_rate": 1e-6}, first["adapter_id"])
    assert second["metrics"]["valid_loss"] == pytest.approx(first["metrics"]["valid_loss"], rel=1e-3)
    assert second["model_id"] != first["model_id"]
    with database.transaction(project_id) as session:
        recipe = session.execute(sa.text("SELECT recipe FROM adapters WHERE id = :i"), {"i": second["adapter_id"]})
        assert recipe.scalar_one()["rank"] == 2, "the adapter it continues from decides the shape"


def test_trains_an_uploaded_chat_file_through_openais_fields(
    client: TestClient, runner: JobRunner, training_wiring: Wiring, project_id: str
) -> None:
    job = create(
        client,
        training_file=add_file(training_wiring, project_id, chats()),
        validation_file=add_file(training_wiring, project_id, chats(3)),
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}},
    )
    assert job["hyperparameters"] == {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": "auto"}
    assert runner.run(project_id, job["id"]) == "succeeded"
    done = show(client, job["id"])
    assert done["hyperparameters"] == {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}
    tuned = done["fine_tuned_model"]
    again = create(client, model=tuned, training_file=job["training_file"])
    assert again["model"] == "tiny"
    assert again["init_adapter"].startswith("ad_")


def test_names_the_bad_line_of_a_training_file(
    client: TestClient, runner: JobRunner, training_wiring: Wiring, project_id: str, home: Path
) -> None:
    content = chats(4) + b'{"messages": [{"role": "user", "content": "no answer"}]}\n'
    job = create(client, training_file=add_file(training_wiring, project_id, content))
    assert runner.run(project_id, job["id"]) == "failed"
    error = show(client, job["id"])["error"]
    assert error["code"] == "invalid_training_file"
    assert "training_file (chats.jsonl), line 5:" in error["message"]
    assert error["param"] == "training_file"
    assert not (home / "work" / "training" / job["id"]).exists()


def test_refuses_examples_longer_than_the_model_reads(
    client: TestClient, runner: JobRunner, training_wiring: Wiring, project_id: str
) -> None:
    long = {"messages": [{"role": "user", "content": "1+2? " * 200}, {"role": "assistant", "content": "3"}]}
    file = add_file(training_wiring, project_id, chats(4) + json.dumps(long).encode() + b"\n")
    refused = create(client, training_file=file, recipe=QUICK | {"max_length": 4000})["id"]
    assert runner.run(project_id, refused) == "failed"
    error = show(client, refused)["error"]
    assert (error["code"], error["param"]) == ("invalid_recipe", "recipe.max_length")
    assert "tiny reads at most 512" in error["message"]
    left_out = create(client, training_file=file, recipe=QUICK | {"max_length": 512})["id"]
    assert runner.run(project_id, left_out) == "succeeded"


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"training_file": "file-none"}, "file_not_found", "training_file"),
        ({"dataset": "ds_none"}, "dataset_not_found", "dataset"),
        ({}, "invalid_input", "training_file"),
        ({"dataset": "ds_x", "model": "../../etc"}, "model_not_found", "model"),
        ({"dataset": "ds_x", "recipe": {"lr": 1}}, "invalid_recipe", "recipe.lr"),
        ({"dataset": "ds_x", "method": {"type": "reinforcement"}}, "unsupported_method", "method.type"),
        ({"dataset": "ds_x", "suffix": "a b"}, "invalid_input", "suffix"),
        ({"dataset": "ds_x", "colour": "red"}, "invalid_input", "colour"),
    ],
)
def test_refuses_at_once_what_cannot_run(
    client: TestClient, project_id: str, database: Database, fields: dict[str, Any], code: str, param: str
) -> None:
    refused = client.post("/v1/fine_tuning/jobs", json={"model": "tiny"} | fields)
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == (code, param), refused.text
    assert 400 <= refused.status_code < 500
    with database.transaction(project_id) as session:
        assert jobs.listing(session) == ([], False)


def test_refuses_a_dataset_that_is_not_ready(client: TestClient, project_id: str, database: Database) -> None:
    refused = client.post(
        "/v1/fine_tuning/jobs",
        json={"model": "tiny", "dataset": add_dataset(database, project_id, status="pending")},
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "dataset_not_ready")


def test_no_other_project_sees_the_job(
    client: TestClient, admin_database: Database, database: Database, project_id: str
) -> None:
    job = create(client, dataset=add_dataset(database, project_id))
    stranger = {"x-project": make_project(admin_database)}
    base = f"/v1/fine_tuning/jobs/{job['id']}"
    assert client.get("/v1/fine_tuning/jobs", headers=stranger).json()["data"] == []
    for path in (base, f"{base}/events", f"{base}/checkpoints"):
        assert client.get(path, headers=stranger).status_code == 404
    for wish in ("cancel", "pause", "resume"):
        assert client.post(f"{base}/{wish}", headers=stranger).status_code == 404
    assert show(client, job["id"])["status"] == "queued"


def test_lists_newest_first_by_metadata(client: TestClient, database: Database, project_id: str) -> None:
    dataset_id = add_dataset(database, project_id)
    ids = [create(client, dataset=dataset_id, metadata={"n": str(n % 2)})["id"] for n in range(4)]
    first = client.get("/v1/fine_tuning/jobs", params={"limit": 3}).json()
    assert [job["id"] for job in first["data"]] == ids[:0:-1]
    assert first["has_more"]
    rest = client.get("/v1/fine_tuning/jobs", params={"after": first["last_id"]}).json()
    assert [job["id"] for job in rest["data"]] == ids[:1]
    odd = client.get("/v1/fine_tuning/jobs", params={"metadata[n]": "1"}).json()
    assert [job["id"] for job in odd["data"]] == [ids[3], ids[1]]


class Background:
    """A long job running in a thread, as a worker would run it."""

    def __init__(self, runner: JobRunner, project_id: str, job_id: str) -> None:
        self.became = ""
        self._thread = threading.Thread(target=self._run, args=(runner, project_id, job_id))
        self._thread.start()

    def _run(self, runner: JobRunner, project_id: str, job_id: str) -> None:
        self.became = runner.run(project_id, job_id)

    def wait(self) -> str:
        self._thread.join(60)
        return self.became


def long_job(client: TestClient, database: Database, project_id: str) -> str:
    recipe = QUICK | {"epochs": 1000, "max_steps": None, "batch_size": 1, "save_steps": 100_000, "patience": None}
    job_id: str = create(client, dataset=add_dataset(database, project_id), recipe=recipe)["id"]
    return job_id


def steps(client: TestClient, job_id: str) -> list[int]:
    events = client.get(f"/v1/fine_tuning/jobs/{job_id}/events", params={"limit": 100}).json()["data"]
    return [event["data"]["step"] for event in events if event["type"] == "metrics"]


def test_pauses_with_a_checkpoint_resumes_from_it_and_cancels(
    client: TestClient, runner: JobRunner, database: Database, project_id: str, home: Path
) -> None:
    job_id = long_job(client, database, project_id)
    base = f"/v1/fine_tuning/jobs/{job_id}"
    running = Background(runner, project_id, job_id)
    wait_until(lambda: len(steps(client, job_id)) > 2, seconds=60)
    assert client.post(f"{base}/pause").status_code == 200
    assert running.wait() == "handed over"
    assert show(client, job_id)["status"] == "paused"
    with database.transaction(project_id) as session:
        saved = session.execute(sa.text("SELECT resume_step FROM training_jobs WHERE id = :i"), {"i": job_id}).scalar()

    (home / "work" / "training" / job_id).rename(home / "elsewhere")  # resumed by a worker on another machine
    assert client.post(f"{base}/resume").json()["status"] == "queued"
    running = Background(runner, project_id, job_id)
    wait_until(lambda: max(steps(client, job_id)) > saved + 2, seconds=60)
    events = client.get(f"{base}/events", params={"limit": 100}).json()["data"]
    assert any(event["message"] == f"Fine-tuning job resumed at step {saved}" for event in events)

    began = now()
    client.post(f"{base}/cancel")
    assert running.wait() == "cancelled"
    assert (now() - began).total_seconds() < 10
    assert show(client, job_id)["status"] == "cancelled"
    assert client.post(f"{base}/cancel").status_code == 400


def test_fetches_again_a_state_whose_copy_was_broken_off(
    client: TestClient,
    training_wiring: Wiring,
    runner: JobRunner,
    database: Database,
    project_id: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another machine's worker dies while it copies the state from storage: the next attempt has it all the same."""
    job_id = long_job(client, database, project_id)
    base = f"/v1/fine_tuning/jobs/{job_id}"
    running = Background(runner, project_id, job_id)
    wait_until(lambda: len(steps(client, job_id)) > 0, seconds=60)
    client.post(f"{base}/pause")
    assert running.wait() == "handed over"
    shutil.rmtree(home / "work" / "training" / job_id)
    copied = shutil.copytree

    def broken_off(source: Path, target: Path) -> None:
        copied(source, target)
        (target / "manifest.json").unlink()
        raise HandOver("shutdown")  # leaves the job to the next attempt at once, which a crash does after a while

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copytree", broken_off)
        client.post(f"{base}/resume")
        assert runner.run(project_id, job_id) == "handed over"
    running = Background(runner, project_id, job_id)
    wait_until(lambda: "resumed at step" in client.get(f"{base}/events?limit=100").text, seconds=60)
    client.post(f"{base}/cancel")
    assert running.wait() == "cancelled"


@pytest.mark.parametrize("when", ["before it is read", "half-way"])
def test_a_state_that_the_child_drops_while_it_is_stored_is_not_missed(
    when: str,
    client: TestClient,
    runner: JobRunner,
    database: Database,
    project_id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = Recorder._keep_state
    add = tarfile.TarFile.addfile
    dropped: list[Path] = []

    def drop(folder: Path) -> None:
        if not dropped:
            dropped.append(folder.rename(tmp_path / "dropped"))

    def keep(self: Recorder, event: StateSaved) -> None:
        def add_then_drop(tar: tarfile.TarFile, *entry: Any) -> None:
            add(tar, *entry)
            drop(event.folder)

        with monkeypatch.context() as patched:
            if when == "half-way":
                patched.setattr(tarfile.TarFile, "addfile", add_then_drop)
            else:
                drop(event.folder)
            kept(self, event)

    monkeypatch.setattr(Recorder, "_keep_state", keep)
    job_id = create(client, dataset=add_dataset(database, project_id))["id"]
    assert runner.run(project_id, job_id) == "succeeded"
    assert dropped


def test_a_worker_that_shuts_down_hands_over_without_counting_an_attempt(
    client: TestClient, runner: JobRunner, database: Database, project_id: str
) -> None:
    job_id = long_job(client, database, project_id)
    running = Background(runner, project_id, job_id)
    wait_until(lambda: len(steps(client, job_id)) > 0, seconds=60)
    runner.shutting_down.set()
    assert running.wait() == "handed over"
    with database.transaction(project_id) as session:
        job = jobs.get(session, job_id)
        assert (job.status, job.attempt) == ("queued", 0)
        jobs.cancel(session, job_id)


def test_retries_once_with_a_smaller_micro_batch_when_memory_runs_out(
    client: TestClient, runner: JobRunner, training_wiring: Wiring, project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention over one pack of all examples needs gigabytes, over a quarter of it a few dozen megabytes."""
    noise = random.Random(0)
    words = ["".join(noise.choices("abcdefghij ", k=420)) for _ in range(24)]
    turns = [[{"role": "user", "content": word}, {"role": "assistant", "content": word[:8]}] for word in words]
    content = b"".join(json.dumps({"messages": turn}).encode() + b"\n" for turn in turns)
    recipe = QUICK | {"batch_size": 24, "max_steps": 1, "max_length": 500, "micro_batch_tokens": 12_000}
    order = {"training_file": add_file(training_wiring, project_id, content), "recipe": recipe, "model": "tiny"}
    starved = create(client, **order)["id"]
    with monkeypatch.context() as patched:
        patched.setattr(training_run, "run_child", partial(run_child, module="tests.fakes.limited_training"))
        assert runner.run(project_id, starved) == "succeeded"
    events = client.get(f"/v1/fine_tuning/jobs/{starved}/events", params={"limit": 100}).json()["data"]
    (retry,) = [event for event in events if (event["data"] or {}).get("code") == "out_of_memory"]
    assert retry["data"]["micro_batch_tokens"] == 3_000
    assert "trying once more" in retry["message"]

    fed = create(client, **order | {"recipe": recipe | {"micro_batch_tokens": 3_000}})["id"]
    assert runner.run(project_id, fed) == "succeeded"
    losses = [
        next(event["data"]["train_loss"] for event in page if event["type"] == "metrics")
        for page in (events, client.get(f"/v1/fine_tuning/jobs/{fed}/events", params={"limit": 100}).json()["data"])
    ]
    assert losses[0] == losses[1], "the same run in the same pieces"


def test_a_worker_spreads_a_model_over_its_processes(
    client: TestClient, training_wiring: Wiring, project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_with: list[dict[str, str]] = []
    keep_state = Recorder._keep_state

    def look_and_keep(recorder: Recorder, event: StateSaved) -> None:
        made_with.append(whole_folders.made_with(event.folder))
        keep_state(recorder, event)

    monkeypatch.setattr(Recorder, "_keep_state", look_and_keep)
    changes = {"training_processes": 2, "training_shard": "full"}
    settings = training_wiring.settings.model_copy(update=changes)
    runner = JobRunner(replace(training_wiring, settings=settings), JOB_HANDLERS, worker="two")
    job_id = create(client, dataset=add_dataset(training_wiring.database, project_id))["id"]
    assert runner.run(project_id, job_id) == "succeeded"
    assert [(state["processes"], state["shard"]) for state in made_with] == [("2", "full")] * 2


def test_tells_of_a_logger_that_fails_after_the_last_step(
    client: TestClient, training_wiring: Wiring, project_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    pytest.importorskip("tensorboard")
    monkeypatch.setattr("services.training.loggers._TensorBoard.close", full)
    assert isinstance(training_wiring.settings, TrainingSettings)
    logging = training_wiring.settings.model_copy(update={"tensorboard_dir": tmp_path})
    runner = JobRunner(replace(training_wiring, settings=logging), JOB_HANDLERS, worker="test")
    job_id = create(client, dataset=add_dataset(training_wiring.database, project_id))["id"]
    assert runner.run(project_id, job_id) == "succeeded"
    events = client.get(f"/v1/fine_tuning/jobs/{job_id}/events", params={"limit": 100}).json()["data"]
    (warned,) = [event for event in events if event["level"] == "warn"]
    assert warned["message"].startswith("TensorBoard gets no more figures of this run: OSError")


def test_tells_of_a_logger_that_fails_at_the_end_of_a_failed_run(
    client: TestClient, training_wiring: Wiring, project_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def starving(*_: Any, **__: Any) -> None:
        raise OutOfMemory("Memory ran out.")

    pytest.importorskip("tensorboard")
    monkeypatch.setattr("services.training.loggers._TensorBoard.close", full)
    monkeypatch.setattr(training_run, "run_child", starving)
    assert isinstance(training_wiring.settings, TrainingSettings)
    logging = training_wiring.settings.model_copy(update={"tensorboard_dir": tmp_path})
    runner = JobRunner(replace(training_wiring, settings=logging), JOB_HANDLERS, worker="test")
    job_id = create(client, dataset=add_dataset(training_wiring.database, project_id))["id"]
    assert runner.run(project_id, job_id) == "failed"
    assert "TensorBoard gets no more figures of this run" in client.get(f"/v1/fine_tuning/jobs/{job_id}/events").text


def test_a_step_that_is_said_twice_is_logged_once(
    client: TestClient, training_wiring: Wiring, project_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped, logged = Recorder._stepped, list[int]()

    def twice(self: Recorder, event: Stepped) -> None:
        stepped(self, event)
        stepped(self, event)

    pytest.importorskip("tensorboard")
    monkeypatch.setattr(Recorder, "_stepped", twice)
    monkeypatch.setattr("services.training.loggers._TensorBoard.log", lambda _self, step, _values: logged.append(step))
    assert isinstance(training_wiring.settings, TrainingSettings)
    logging = training_wiring.settings.model_copy(update={"tensorboard_dir": tmp_path})
    runner = JobRunner(replace(training_wiring, settings=logging), JOB_HANDLERS, worker="test")
    job_id = create(client, dataset=add_dataset(training_wiring.database, project_id))["id"]
    assert runner.run(project_id, job_id) == "succeeded"
    assert logged == list(range(1, QUICK["max_steps"] + 1))


def test_a_second_lack_of_memory_ends_the_job_by_name(
    client: TestClient, runner: JobRunner, database: Database, project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def starving(order: Path, **_: Any) -> None:
        tries.append(json.loads(order.read_text())["recipe"]["micro_batch_tokens"])
        raise OutOfMemory("Memory ran out.")

    monkeypatch.setattr(training_run, "run_child", starving)
    recipe = QUICK | {"dropout": 0.1}
    job_id = create(client, dataset=add_dataset(database, project_id), recipe=recipe)["id"]
    assert runner.run(project_id, job_id) == "failed"
    assert tries == [512, 128]
    told = client.get(f"/v1/fine_tuning/jobs/{job_id}/events").text
    assert "up to rounding and to which noise is drawn" in told, "other packs draw other dropout"
    assert show(client, job_id)["error"]["code"] == "out_of_memory"


def test_a_full_disk_of_the_worker_is_named_and_tried_again(
    client: TestClient, runner: JobRunner, database: Database, project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "states")

    monkeypatch.setattr(training_run, "run_child", full)
    job_id = create(client, dataset=add_dataset(database, project_id))["id"]
    assert runner.run(project_id, job_id) == "queued", "it goes on from its last state once there is room"
    with database.transaction(project_id) as session:
        jobs.cancel(session, job_id)


def test_a_disk_that_is_full_for_the_adapter_alone_is_named_and_tried_again(
    client: TestClient,
    runner: JobRunner,
    database: Database,
    project_id: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Storage.staged_folder

    def full(storage: Storage, project: str, folder: Path) -> Any:
        if folder.name == "output":
            raise OSError(errno.ENOSPC, "No space left on device")
        return stage(storage, project, folder)

    monkeypatch.setattr(Storage, "staged_folder", full)
    job_id = create(client, dataset=add_dataset(database, project_id))["id"]
    folder = home / "work" / "training" / job_id
    assert runner.run(project_id, job_id) == "queued"
    assert (folder / "states").is_dir(), "it goes on from its last state once there is room"
    with database.transaction(project_id) as session:
        session.execute(
            sa.text("UPDATE jobs SET attempt = max_attempts - 1, run_after = now() WHERE id = :id"), {"id": job_id}
        )
    assert runner.run(project_id, job_id) == "failed"
    error = show(client, job_id)["error"]
    assert error["code"] == "disk_full"
    assert "Free some space" in error["message"]
    assert not folder.exists()


def test_estimates_a_job_before_its_first_step(
    client: TestClient, runner: JobRunner, database: Database, project_id: str
) -> None:
    job_id = create(client, dataset=add_dataset(database, project_id), max_minutes=60)["id"]
    assert runner.run(project_id, job_id) == "succeeded"
    assert show(client, job_id)["max_minutes"] == 60
    events = client.get(f"/v1/fine_tuning/jobs/{job_id}/events", params={"limit": 100}).json()["data"][::-1]
    (said,) = [number for number, event in enumerate(events) if "estimate" in (event["data"] or {})]
    steps = [number for number, event in enumerate(events) if event["type"] == "metrics"]
    assert said < steps[0]
    assert events[said]["message"].startswith("Estimated before the first step: about ")
    estimate, last = events[said]["data"]["estimate"], events[steps[-1]]["data"]
    assert estimate["total_steps"] == len(steps)
    assert last["memory_bytes"] / 2 < estimate["peak_bytes"] < last["memory_bytes"] * 2
    assert 0 < estimate["seconds"] < 60


@pytest.mark.parametrize(
    ("gib", "minutes", "code", "fields"),
    [
        (0.01, None, "does_not_fit", ("micro_batch_tokens", "max_length", "rank", "gradient_checkpointing")),
        (None, 1e-6, "exceeds_budget", ("max_steps", "epochs", "train_share", "max_length")),
    ],
)
def test_refuses_with_advice_what_does_not_fit(
    client: TestClient,
    training_wiring: Wiring,
    database: Database,
    project_id: str,
    gib: float | None,
    minutes: float | None,
    code: str,
    fields: tuple[str, ...],
) -> None:
    settings = training_wiring.settings.model_copy(update={"training_memory_gib": gib})
    runner = JobRunner(replace(training_wiring, settings=settings), JOB_HANDLERS, worker="small")
    job_id = create(client, dataset=add_dataset(database, project_id), max_minutes=minutes)["id"]
    assert runner.run(project_id, job_id) == "failed"
    error = show(client, job_id)["error"]
    assert error["code"] == code
    assert all(field in error["message"] and field in Recipe.model_fields for field in fields)
    events = client.get(f"/v1/fine_tuning/jobs/{job_id}/events", params={"limit": 100}).json()["data"]
    assert not [event for event in events if event["type"] == "metrics"]


def test_every_table_is_under_forced_row_level_security(database: Database, project_id: str) -> None:
    with database.transaction(project_id) as session:
        for table in ("training_jobs", "held_files", "adapters", "checkpoints"):
            forced = sa.text("SELECT relforcerowsecurity FROM pg_class WHERE relname = :table")
            assert session.execute(forced, {"table": table}).scalar_one()
