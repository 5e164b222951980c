"""What counts as stored bytes: of each kind what its rows tell, of orders what they will come to; what runs, ends."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from services.data.routes import router as files_router
from services.training.handlers import JOB_HANDLERS
from services.training.routes import router
from services.training.settings import TrainingSettings
from services.training.tables import AdapterRow, CheckpointRow, TrainingJob
from shared.database import Database
from shared.ids import new_id
from shared.jobs import JobContext
from shared.jobs.runner import JobRunner
from shared.settings import Settings
from shared.stored_bytes import stored_bytes
from shared.web import Caller, create_app
from shared.wiring import Wiring
from tests.conftest import make_project
from tests.factories import quotas
from tests.factories.tiny_model import make_tiny_model
from tests.fakes.access import always
from tests.integration.test_training_jobs import chats

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored-bytes-home")
    make_tiny_model(folder / "models" / "tiny")
    return folder


@pytest.fixture
def parts(wiring: Wiring, settings: Settings, home: Path) -> Wiring:
    return replace(wiring, settings=TrainingSettings(**settings.model_dump() | {"home": home}))


@pytest.fixture
def client(parts: Wiring, project_id: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("UPLIFT_HOME", str(home))
    unclosed = replace(parts)
    unclosed.close = lambda: None  # type: ignore[method-assign]
    access = always(Caller(project_id, "tests", "org", "key", ("write",), "req"))
    app = create_app("t", [router, files_router], wiring_factory=lambda: unclosed, access=access)
    with TestClient(app) as open_client:
        yield open_client


@pytest.fixture
def grant(admin_database: Database, project_id: str) -> Callable[..., None]:
    return partial(quotas.grant, admin_database, project_id)


def stored(database: Database, project_id: str) -> dict[str, int]:
    """Of the kinds that there are."""
    with database.transaction(project_id) as session:
        return {kind: size for kind, size in stored_bytes(session, project_id).items() if size}


def upload(client: TestClient, content: bytes) -> str:
    sent = client.post("/v1/files", files={"file": ("f.jsonl", content)}, data={"purpose": "fine-tune"})
    assert sent.status_code == 200, sent.text
    return str(sent.json()["id"])


def order(client: TestClient, file_id: str, **recipe: Any) -> Any:
    quick = {"max_steps": 4, "batch_size": 4, "rank": 2, "save_steps": 2, "max_length": 400}
    body = {"model": "tiny", "training_file": file_id, "recipe": quick | recipe}
    return client.post("/v1/fine_tuning/jobs", json=body)


def adapter(project_id: str, size: int) -> AdapterRow:
    row = AdapterRow(id=new_id("ad_"), project_id=project_id, model_id=new_id("ft:"), base_model="tiny", bytes=size)
    row.blob_key, row.job_id, row.recipe, row.metrics = "key", new_id("ftjob-"), {}, {}
    row.train_seconds, row.trained_tokens = 1.0, 1
    return row


def test_a_run_over_the_quota_ends_with_all_its_weights_and_the_next_is_refused_by_name(
    client: TestClient, parts: Wiring, project_id: str, grant: Callable[..., None]
) -> None:
    file_id = upload(client, chats())
    ordered = order(client, file_id).json()
    most = len(chats()) + 1  # one byte of room when it begins, none when its first checkpoint is kept
    grant(stored_bytes=most)
    assert JobRunner(parts, JOB_HANDLERS, worker="test").run(project_id, ordered["id"]) == "succeeded"
    with parts.database.transaction(project_id) as session:
        weights = list(session.execute(sa.select(AdapterRow.blob_key, AdapterRow.bytes)))
        checkpoints = list(session.execute(sa.select(CheckpointRow.blob_key, CheckpointRow.bytes)))
    assert (len(weights), len(checkpoints)) == (1, 2)
    for key, size in weights + checkpoints:
        with parts.storage.open(project_id, key) as stream:
            assert size == len(stream.read()) > 0
    kinds = stored(parts.database, project_id)
    assert (kinds["adapters"], kinds["checkpoints"]) == (weights[0].bytes, sum(one.bytes for one in checkpoints))
    assert set(kinds) == {"files", "adapters", "checkpoints"}, "its state went with its end"
    refused = order(client, file_id)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (429, "insufficient_quota")
    assert f"may store {most} bytes and stores {sum(kinds.values())}" in error["message"]
    assert f"checkpoints: {kinds['checkpoints']}" in error["message"]
    assert client.get("/v1/fine_tuning/jobs").json()["data"][0]["id"] == ordered["id"], "nothing was ordered"


def test_counts_the_state_of_a_paused_run(
    client: TestClient, parts: Wiring, project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = upload(client, chats())
    job_id = order(client, file_id, epochs=100.0, max_steps=4000).json()["id"]  # long, lest it end before it hears
    runner = JobRunner(parts, JOB_HANDLERS, worker="test")
    seen: list[int] = []

    def pause_at_the_first_step(context: Any, *words: Any, **more: Any) -> Any:
        if more.get("type") == "metrics" and not seen:
            seen.append(more["step"])
            assert client.post(f"/v1/fine_tuning/jobs/{job_id}/pause").status_code == 200
        return event(context, *words, **more)

    event = JobContext.event
    monkeypatch.setattr(JobContext, "event", pause_at_the_first_step)
    assert runner.run(project_id, job_id) == "handed over"
    with parts.database.transaction(project_id) as session:
        job = session.get_one(TrainingJob, job_id)
        assert job.resume_blob_key is not None
        with parts.storage.open(project_id, job.resume_blob_key) as stream:
            size = len(stream.read())
    assert stored(parts.database, project_id)["states of unfinished training jobs"] == size > 0


def test_counts_once_what_is_held_of_deleted_files(
    client: TestClient, parts: Wiring, project_id: str, grant: Callable[..., None]
) -> None:
    """Held by two, it lies in storage once. Upload, order and delete in turn must come to an end."""
    grant(stored_bytes=2 * len(chats()))
    file_id = upload(client, chats())
    assert [order(client, file_id).status_code for _ in range(2)] == [200, 200]
    assert stored(parts.database, project_id) == {"files": len(chats())}
    assert client.delete(f"/v1/files/{file_id}").status_code == 200
    assert stored(parts.database, project_id) == {"deleted files that unfinished jobs read": len(chats())}
    again = upload(client, chats()[:-1] + b" ")
    assert order(client, again).status_code == 429, "full"
    assert client.delete(f"/v1/files/{again}").status_code == 200
    assert order(client, upload(client, chats())).status_code == 200, "there are the same bytes as what is held"


def test_counts_nothing_of_another_project(parts: Wiring, project_id: str, admin_database: Database) -> None:
    other = make_project(admin_database)
    with parts.database.transaction(other) as session:
        session.add(adapter(other, 60))
    assert stored(parts.database, other) == {"adapters": 60}
    assert stored(parts.database, project_id) == {}
