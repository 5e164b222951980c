"""Adapters that clients bring, on the real database with the real checking child: taken in, refused, deleted."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import torch
from fastapi import Request
from fastapi.testclient import TestClient
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from services.training.adapters.handlers import JOB_HANDLERS
from services.training.adapters.routes import router
from services.training.handlers import RELEASE_HANDLERS
from services.training.settings import TrainingSettings
from services.training.tables import AdapterRow, HeldFile
from shared.database import Database
from shared.files import File, release_blobs
from shared.ids import new_id
from shared.jobs.runner import JobRunner
from shared.jobs.tables import Job
from shared.messages import ReleaseTraining
from shared.settings import Settings
from shared.storage import BlobMissing
from shared.stored_bytes import stored_bytes
from shared.web import Caller, create_app
from shared.wiring import Wiring
from tests.conftest import make_project
from tests.factories.quotas import grant
from tests.factories.tiny_model import make_tiny_model

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters-home")
    make_tiny_model(folder / "models" / "tiny")
    return folder


@pytest.fixture
def parts(wiring: Wiring, settings: Settings, home: Path) -> Wiring:
    return replace(wiring, settings=TrainingSettings(**settings.model_dump() | {"home": home}))


@pytest.fixture
def client(parts: Wiring, project_id: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("UPLIFT_HOME", str(home))

    async def access(request: Request, _parts: Wiring) -> Caller:
        return Caller(request.headers.get("x-project", project_id), "tests", "org", "key", ("write",), "req")

    unclosed = replace(parts)
    unclosed.close = lambda: None  # type: ignore[method-assign]
    with TestClient(create_app("t", [router], wiring_factory=lambda: unclosed, access=access)) as open_client:
        yield open_client


@pytest.fixture(scope="module")
def adapter_folder(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What peft saves of a randomly filled adapter."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(home / "models" / "tiny")
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=1.0)
    model.save_pretrained(folder)
    return folder


class Uploads:
    """Puts files where `/v1/files` would, and runs the job that an upload ordered."""

    def __init__(self, client: TestClient, parts: Wiring, project_id: str, folder: Path) -> None:
        self.client, self.parts, self.project_id, self.folder = client, parts, project_id, folder
        self._runner = JobRunner(parts, JOB_HANDLERS, worker="test")

    def file(self, content: bytes) -> str:
        blob = self.parts.storage.put_bytes(self.project_id, content)
        file_id = new_id("file-")
        row = {"id": file_id, "project": self.project_id, "size": blob.size, "sha": blob.sha256, "key": blob.key}
        with self.parts.database.transaction(self.project_id) as session:
            session.execute(
                sa.text(
                    "INSERT INTO files (id, project_id, filename, purpose, bytes, sha256, blob_key) "
                    "VALUES (:id, :project, 'any', 'user_data', :size, :sha, :key)"
                ),
                row,
            )
        return file_id

    def create(self, *, weights: bytes | None = None, config: dict[str, Any] | None = None, **more: Any) -> Any:
        own = json.loads((self.folder / "adapter_config.json").read_text())
        body = {
            "base_model": "tiny",
            "weights_file": self.file(weights or (self.folder / "adapter_model.safetensors").read_bytes()),
            "config_file": self.file(json.dumps(own | (config or {})).encode()),
        }
        return self.client.post("/v1/adapters", json=body | more)

    def taken_in(self, **what: Any) -> dict[str, Any]:
        """Create and run; answers the adapter as it is then."""
        created = self.create(**what)
        assert created.status_code == 200, created.text
        self.run(created.json())
        return self.show(created.json()["id"])

    def run(self, adapter: dict[str, Any]) -> None:
        self._runner.run(self.project_id, adapter["job"])

    def show(self, adapter_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/v1/adapters/{adapter_id}").json()
        return found


@pytest.fixture
def uploads(client: TestClient, parts: Wiring, project_id: str, adapter_folder: Path) -> Uploads:
    return Uploads(client, parts, project_id, adapter_folder)


def rewritten(folder: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> bytes:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "changed.safetensors")
    return (tmp_path / "changed.safetensors").read_bytes()


def test_takes_an_adapter_in_and_names_its_model(uploads: Uploads, parts: Wiring) -> None:
    created = uploads.create(suffix="mine", metadata={"a": "b"})
    queued = created.json()
    assert (created.status_code, queued["object"], queued["status"]) == (200, "adapter", "queued")
    assert (queued["model"], queued["error"], queued["metadata"]) == (None, None, {"a": "b"})
    uploads.run(queued)
    ready = uploads.show(queued["id"])
    assert (ready["status"], ready["error"]) == ("ready", None)
    assert ready["model"].startswith("ft:tiny:p-")
    assert ready["model"].endswith(f":mine:{queued['id'][-8:]}")
    assert (ready["rank"], ready["alpha"], ready["targets"]) == (2, 4.0, ["down_proj", "q_proj"])
    assert uploads.show(ready["model"])["id"] == ready["id"]
    assert not list((parts.settings.home / "work" / "adapters").iterdir()), "no working folder is left"


def test_stores_a_configuration_that_holds_no_word_of_the_clients(uploads: Uploads, parts: Wiring) -> None:
    ready = uploads.taken_in(config={"base_model_name_or_path": "../../etc/evil", "revision": "evil"})
    with parts.database.transaction(uploads.project_id) as session:
        key = session.execute(sa.text("SELECT blob_key FROM adapters WHERE id = :id"), {"id": ready["id"]}).scalar_one()
    folder = parts.storage.local_folder(uploads.project_id, key)
    assert "evil" not in (folder / "adapter_config.json").read_text()
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_refuses_by_name_what_the_bytes_betray(uploads: Uploads, tmp_path: Path) -> None:
    refused = {
        "adapter_not_safetensors": {"weights": b"PK\x03\x04" + bytes(100)},
        "adapter_header_invalid": {"weights": (9).to_bytes(8, "little") + b'{"a": 1} '},
        "adapter_config_key_refused": {"config": {"trust_remote_code": True}},
        "adapter_config_invalid": {"config": {"r": 100_000}},
        "adapter_tensors_mismatch": {"config": {"target_modules": ["q_proj"]}},
    }
    for code, what in refused.items():
        failed = uploads.taken_in(**what)
        assert (failed["status"], failed["error"]["code"], failed["model"]) == ("failed", code, None)
        assert failed["error"]["param"] in {"weights_file", "config_file"}


def test_refuses_values_that_would_break_every_answer_in_the_batch(uploads: Uploads, tmp_path: Path) -> None:
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"
    for value in (float("nan"), float("inf"), 1e30):
        weights = rewritten(uploads.folder, tmp_path, lambda tensors, value=value: tensors[name][3].fill_(value))
        failed = uploads.taken_in(weights=weights)
        assert failed["error"]["code"] == "adapter_values_refused"
        assert name in failed["error"]["message"]


def test_refuses_a_rank_that_the_tensors_do_not_have(uploads: Uploads) -> None:
    failed = uploads.taken_in(config={"r": 4})
    assert failed["error"]["code"] == "adapter_tensors_mismatch"
    assert "call for [4, 48]" in failed["error"]["message"]


def test_gives_up_a_check_that_takes_too_long(uploads: Uploads) -> None:
    uploads.parts.settings.__dict__["adapter_check_seconds"] = 0.0
    failed = uploads.taken_in()
    assert failed["error"]["code"] == "adapter_check_timed_out"


@pytest.mark.parametrize(
    ("change", "param", "status"),
    [
        ({"base_model": "none"}, "model", 404),
        ({"weights_file": "file-none"}, "weights_file", 404),
        ({"suffix": "a b"}, "suffix", 400),
        ({"colour": "red"}, "colour", 400),
    ],
)
def test_refuses_an_order_at_once_where_it_can(uploads: Uploads, change: Any, param: str, status: int) -> None:
    answer = uploads.create(**change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    assert uploads.client.get("/v1/adapters").json()["data"] == []


def test_refuses_files_that_are_too_large_before_any_job(uploads: Uploads) -> None:
    answer = uploads.create(config={"revision": "x" * 70_000})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "adapter_too_large")


def test_lists_uploads_and_trained_adapters_to_the_end(uploads: Uploads) -> None:
    made = [uploads.create().json()["id"] for _ in range(3)]
    with uploads.parts.database.transaction(uploads.project_id) as session:
        session.execute(
            sa.text(
                "INSERT INTO adapters (id, project_id, model_id, base_model, blob_key, job_id, recipe, metrics, "
                "train_seconds, trained_tokens) VALUES ('ad_trained' || :project, :project, 'ft:t', 'tiny', 'k', "
                "'ftjob-' || :project, '{\"rank\": 8}', '{}', 1, 1)"
            ),
            {"project": uploads.project_id},
        )
    found: list[dict[str, Any]] = []
    while True:
        after = {"after": found[-1]["id"]} if found else {}
        page = uploads.client.get("/v1/adapters", params={"limit": 2, **after}).json()
        found += page["data"]
        if not page["has_more"]:
            break
    assert [one["id"] for one in found] == [f"ad_trained{uploads.project_id}", *reversed(made)]
    assert (found[0]["source"], found[0]["status"], found[0]["model"]) == ("training", "ready", "ft:t")
    oldest_first = uploads.client.get("/v1/adapters", params={"order": "asc"}).json()["data"]
    assert oldest_first == found[::-1]


def test_deletes_an_adapter_with_its_bytes(uploads: Uploads) -> None:
    ready = uploads.taken_in()
    blobs = set(Path(uploads.parts.storage._root).rglob("*"))
    deleted = uploads.client.delete(f"/v1/adapters/{ready['id']}").json()
    assert deleted == {"id": ready["id"], "object": "adapter", "deleted": True}
    assert len(blobs - set(Path(uploads.parts.storage._root).rglob("*"))) == 1
    assert uploads.show(ready["id"])["error"]["code"] == "adapter_not_found"


def test_keeps_an_adapter_that_a_variant_needs(uploads: Uploads) -> None:
    ready = uploads.taken_in()
    with uploads.parts.database.transaction(uploads.project_id) as session:
        session.execute(
            sa.text(
                "INSERT INTO variants (id, project_id, model_id, name, digest, base_model, adapter_id, sampling) "
                "VALUES (:id, :project, 'mine-1', 'mine', 'd', 'tiny', :adapter, '{}')"
            ),
            {"id": new_id("var_"), "project": uploads.project_id, "adapter": ready["id"]},
        )
    refused = uploads.client.delete(f"/v1/adapters/{ready['id']}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "adapter_in_use")
    assert "mine-1" in refused.json()["error"]["message"]
    assert uploads.show(ready["id"])["status"] == "ready"


def test_cancels_the_check_of_an_upload_that_is_deleted(uploads: Uploads) -> None:
    queued = uploads.create().json()
    uploads.client.delete(f"/v1/adapters/{queued['id']}")
    uploads.run(queued)
    assert uploads.client.get("/v1/adapters").json()["data"] == []
    with uploads.parts.database.transaction(uploads.project_id) as session:
        status = sa.text("SELECT status FROM jobs WHERE id = :id")
        assert session.execute(status, {"id": queued["job"]}).scalar_one() == "cancelled"
        assert session.execute(sa.text("SELECT count(*) FROM adapters")).scalar_one() == 0


@pytest.mark.parametrize("ended", ["ready", "failed", "deleted"])
def test_reads_files_that_are_deleted_meanwhile_and_lets_them_go_at_its_end(uploads: Uploads, ended: str) -> None:
    queued = uploads.create(config={"lora_dropout": "much"} if ended == "failed" else None).json()
    with uploads.parts.database.transaction(uploads.project_id) as session:
        held = session.scalars(sa.select(HeldFile.blob_key)).all()
        keys = session.scalars(sa.delete(File).returning(File.blob_key)).all()
        release_blobs(session, uploads.parts.storage, uploads.project_id, keys)
    assert len(held) == 2
    if ended == "deleted":
        uploads.client.delete(f"/v1/adapters/{queued['id']}")
    uploads.run(queued)
    if ended != "deleted":
        assert uploads.show(queued["id"])["status"] == ended
    with uploads.parts.database.transaction(uploads.project_id) as session:
        (release,) = session.scalars(sa.select(Job.id).where(Job.kind == ReleaseTraining.kind))
    assert JobRunner(uploads.parts, RELEASE_HANDLERS, worker="release").run(uploads.project_id, release) == "succeeded"
    for key in held:
        with pytest.raises(BlobMissing):
            uploads.parts.storage.open(uploads.project_id, key)


def test_reads_its_files_though_an_older_server_took_the_order_and_held_nothing(uploads: Uploads) -> None:
    queued = uploads.create().json()
    with uploads.parts.database.transaction(uploads.project_id) as session:
        session.execute(sa.delete(HeldFile))
    uploads.run(queued)
    assert uploads.show(queued["id"])["status"] == "ready"


def test_names_a_file_that_is_gone_and_that_nothing_held(uploads: Uploads) -> None:
    queued = uploads.create().json()
    with uploads.parts.database.transaction(uploads.project_id) as session:
        session.execute(sa.delete(HeldFile))
        session.execute(sa.delete(File))
    uploads.run(queued)
    error = uploads.show(queued["id"])["error"]
    assert (error["code"], error["param"]) == ("file_not_found", "config_file")


def test_counts_an_import_as_what_it_will_keep_until_it_has(uploads: Uploads, parts: Wiring) -> None:
    def stored() -> dict[str, int]:
        with parts.database.transaction(uploads.project_id) as session:
            return {kind: size for kind, size in stored_bytes(session, uploads.project_id).items() if size}

    queued = uploads.create().json()
    sent = stored()["files"]
    assert stored() == {"files": sent, "adapters on their way in": sent}
    uploads.run(queued)
    with parts.database.transaction(uploads.project_id) as session:
        key, size = session.execute(sa.select(AdapterRow.blob_key, AdapterRow.bytes)).one()
    assert parts.storage.open(uploads.project_id, key).seek(0, 2) == size
    assert stored() == {"files": sent, "adapters": size}


def test_comes_to_an_end_with_imports_whose_files_are_deleted(uploads: Uploads, admin_database: Database) -> None:
    room = sum((uploads.folder / name).stat().st_size for name in ("adapter_model.safetensors", "adapter_config.json"))
    grant(admin_database, uploads.project_id, stored_bytes=4 * room)
    answers = []
    for turn in range(3):  # every one's configuration is another file
        answers.append(uploads.create(config={"revision": str(turn)}))
        with uploads.parts.database.transaction(uploads.project_id) as session:
            session.execute(sa.delete(File))
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    error = answers[-1].json()["error"]
    assert (error["code"], error["param"]) == ("insufficient_quota", "weights_file")
    assert "adapters on their way in" in error["message"]
    assert "deleted files that unfinished jobs read" in error["message"]


def test_shows_no_project_another_ones_adapters(uploads: Uploads, admin_database: Database) -> None:
    ready = uploads.taken_in()
    stranger = {"x-project": make_project(admin_database)}
    assert uploads.client.get(f"/v1/adapters/{ready['id']}", headers=stranger).status_code == 404
    assert uploads.client.delete(f"/v1/adapters/{ready['id']}", headers=stranger).status_code == 404
    assert uploads.client.get("/v1/adapters", headers=stranger).json()["data"] == []
    body = {name: ready[name] for name in ("base_model", "weights_file", "config_file")}
    assert uploads.client.post("/v1/adapters", json=body, headers=stranger).status_code == 404
