"""Exports through the real routes, database and child process: what comes out loads in plain peft and transformers."""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import sqlalchemy as sa
import torch
from fastapi import Request
from fastapi.testclient import TestClient
from gguf import GGUFReader
from peft import PeftModel
from sqlalchemy.orm import Session
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.data.routes import router as files
from services.evaluation.tables import Evaluation, ExperimentRow
from services.generation.routes import router as generation
from services.generation.tables import Release
from services.training.adapters.routes import router as adapters
from services.training.domain import LEARNED_FILE
from services.training.export.handlers import JOB_HANDLERS
from services.training.export.routes import router as exports
from services.training.recipe import Recipe
from services.training.settings import TrainingSettings
from services.training.tables import AdapterRow, CheckpointRow, TrainingJob
from shared import jobs
from shared.database import Database
from shared.files import store_file
from shared.ids import new_id
from shared.jobs.routes import router as jobs_router
from shared.jobs.runner import JobRunner
from shared.jobs.tables import JobEvent
from shared.messages import EvaluateVariant, TrainAdapter
from shared.settings import Settings
from shared.web import Caller, create_app
from shared.weights import lock_weights
from shared.wiring import Wiring
from tests.factories.quotas import grant
from tests.factories.tiny_model import make_adapter, make_tiny_model
from tests.fakes.processes import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]
BASE = "org--tiny"
BYTE_BASE = "tiny-bytes"
DATA = b"what was learned"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports-home")
    make_tiny_model(folder / "models" / BASE)
    make_tiny_model(folder / "models" / BYTE_BASE, byte_level=True)
    note = {"licence": "Apache-2.0", "provenance": "a random model"}
    (folder / "models" / BASE / "uplift.json").write_text(json.dumps(note))
    return folder


@pytest.fixture
def parts(wiring: Wiring, settings: Settings, home: Path) -> Wiring:
    return replace(wiring, settings=TrainingSettings(**settings.model_dump() | {"home": home}))


@pytest.fixture
def client(parts: Wiring, project_id: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("UPLIFT_HOME", str(home))

    async def access(request: Request, _parts: Wiring) -> Caller:
        return Caller(project_id, "tests", "org", "key", ("write",), "req")

    unclosed = replace(parts)
    unclosed.close = lambda: None  # type: ignore[method-assign]
    routers = [generation, exports, adapters, jobs_router, files]
    with TestClient(create_app("t", routers, wiring_factory=lambda: unclosed, access=access)) as open_client:
        yield open_client


class Exporting:
    """Keeps weights as training would, orders exports, and runs their jobs."""

    def __init__(self, client: TestClient, parts: Wiring, project_id: str) -> None:
        self.client, self.parts, self.project_id = client, parts, project_id
        self._runner = JobRunner(parts, JOB_HANDLERS, worker="test")

    def keep(
        self, folder: Path, recipe: dict[str, Any] | None = None, step: int | None = None, base: str = BASE
    ) -> str:
        """With a training job behind them that learned from one file. Answers the model id."""
        name, job_id = new_id("ad_"), new_id("ftjob-")
        row: AdapterRow | CheckpointRow
        same: dict[str, Any] = {
            "id": name,
            "project_id": self.project_id,
            "model_id": f"ft:{base}:p::{name[-8:]}",
            "base_model": base,
            "blob_key": self.parts.storage.put_folder(self.project_id, folder).key,
            "job_id": job_id,
        }
        if step is None:
            more = {
                "dataset_id": None,
                "recipe": Recipe.from_differences(recipe or {"rank": 4}).model_dump(mode="json"),
                "train_seconds": 1.0,
                "trained_tokens": 9,
            }
            row = AdapterRow(**same, **more, metrics={"valid_loss": 1.5, "best_step": 2, "steps": 3})
        else:
            row = CheckpointRow(**same, step=step, metrics={"valid_loss": 1.5})
        with self.parts.database.transaction(self.project_id) as session:
            jobs.send(session, self.project_id, TrainAdapter(training_job_id=job_id), job_id=job_id)
            session.add(self._training_job(session, job_id, recipe or {}))
            session.flush()
            session.add(row)
        return str(same["model_id"])

    def _training_job(self, session: Session, job_id: str, recipe: dict[str, Any]) -> TrainingJob:
        data = store_file(
            session, self.parts.storage, self.project_id, filename="d.jsonl", purpose="fine-tune", chunks=DATA
        )
        return TrainingJob(
            id=job_id,
            project_id=self.project_id,
            base_model=BASE,
            training_file=data.id,
            recipe=Recipe.from_differences(recipe).model_dump(mode="json"),
            seed=0,
            prompt={"system": "Answer briefly.", "shots": []},
            metadata_={},
        )

    def order(self, model: str, **body: Any) -> Any:
        return self.client.post(f"/v1/models/{model}/export", json=body)

    def done(self, model: str, **body: Any) -> dict[str, Any]:
        """The job once it has run."""
        ordered = self.order(model, **body)
        assert ordered.status_code == 200, ordered.text
        self._runner.run(self.project_id, ordered.json()["id"])
        job: dict[str, Any] = self.client.get(f"/v1/jobs/{ordered.json()['id']}").json()
        return job

    def unpacked(self, folder: Path, model: str, **body: Any) -> tuple[Path, dict[str, Any]]:
        """The folder that the export holds, and the job's result."""
        job = self.done(model, **body)
        assert job["status"] == "succeeded", job
        result: dict[str, Any] = job["result"]
        unmodified = openai.OpenAI(api_key="any", base_url="http://testserver/v1", http_client=self.client)
        content = unmodified.files.content(result["file_id"]).read()
        assert len(content) == result["bytes"]
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            packed.extractall(folder)
        return folder, result


@pytest.fixture
def exporting(client: TestClient, parts: Wiring, project_id: str) -> Exporting:
    return Exporting(client, parts, project_id)


def summary(mean: float) -> dict[str, Any]:
    """As the evaluation service writes it, in part."""
    return {"examples": 20, "metrics": {"exact_match": mean}}


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(input_ids=torch.arange(3, 60)[None]).logits
    return found


def beside_the_base(home: Path, adapter: Path) -> torch.Tensor:
    base = AutoModelForCausalLM.from_pretrained(home / "models" / BASE, dtype=torch.float32)
    return logits(PeftModel.from_pretrained(base, str(adapter)))


def test_exports_an_adapter_that_plain_peft_loads(exporting: Exporting, home: Path, tmp_path: Path) -> None:
    adapter = make_adapter(home / "models" / BASE, tmp_path / "adapter")
    (adapter / LEARNED_FILE).write_text('{"data_sha256": "5eed"}')
    folder, result = exporting.unpacked(tmp_path / "out", exporting.keep(adapter))
    assert torch.equal(beside_the_base(home, folder), beside_the_base(home, adapter))
    assert AutoTokenizer.from_pretrained(folder).encode("ab") == AutoTokenizer.from_pretrained(
        home / "models" / BASE
    ).encode("ab")
    assert result["format"] == "adapter"
    assert result["filename"].endswith(".adapter.zip")
    assert ":" not in result["filename"]
    card = (folder / "README.md").read_text()
    assert 'license: "apache-2.0"' in card
    assert "| validation loss (nats per completion token) | 1.5000 |" in card
    assert hashlib.sha256(DATA).hexdigest() in card
    assert "in the prompt: sha256 `5eed`" in card
    assert '"system": "Answer briefly."' in card
    assert '"rank": 4' in card.split("All of it")[0], "the differences to the default recipe"
    assert not list((home / "work" / "exports").iterdir()), "no working folder is left"


def test_exports_a_merged_model_that_answers_as_the_adapter_does(
    exporting: Exporting, home: Path, tmp_path: Path
) -> None:
    adapter = make_adapter(home / "models" / BASE, tmp_path / "adapter", use_dora=True)
    folder, result = exporting.unpacked(tmp_path / "out", exporting.keep(adapter), format="merged")
    expected = beside_the_base(home, adapter)
    assert not (folder / "adapter_config.json").exists()
    found = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    assert float((found - expected).abs().max()) < 1e-4
    assert (result["dtype"], result["same_next_tokens"]) == ("float32", result["positions"])
    assert result["largest_logit_difference"] < 1e-4
    base = logits(AutoModelForCausalLM.from_pretrained(home / "models" / BASE, dtype=torch.float32))
    assert float((base - expected).abs().max()) > 0.1, "the adapter changes something"


def test_the_card_tells_curves_and_scores_beside_what_had_no_adapter(
    exporting: Exporting, client: TestClient, home: Path, tmp_path: Path
) -> None:
    model = exporting.keep(make_adapter(home / "models" / BASE, tmp_path / "adapter"))
    with exporting.parts.database.transaction(exporting.project_id) as session:
        adapter = session.scalars(sa.select(AdapterRow).where(AdapterRow.model_id == model)).one()
        for step in (1, 2, 3):
            found = {"step": step, "train_loss": 3.0 / step} | ({"valid_loss": 1.5} if step == 2 else {})
            session.add(
                JobEvent(
                    project_id=exporting.project_id,
                    job_id=adapter.job_id,
                    level="info",
                    type="metrics",
                    message="",
                    data=found,
                    step=step,
                )
            )
    tuned = client.post("/v1/variants", json={"name": "v", "base_model": BASE, "adapter": adapter.id}).json()
    plain = client.post("/v1/variants", json={"name": "p", "base_model": BASE}).json()
    with exporting.parts.database.transaction(exporting.project_id) as session:
        experiment = ExperimentRow(id=new_id("exp_"), project_id=exporting.project_id, name="e", dataset_id="ds_x")
        experiment.base_model, experiment.spec, experiment.status = BASE, {}, "succeeded"
        session.add(experiment)
        session.flush()
        for variant, mean, within in ((tuned, 0.75, experiment.id), (plain, 0.25, experiment.id), (plain, 0.5, None)):
            evaluation = new_id("eval_")
            job = jobs.send(session, exporting.project_id, EvaluateVariant(evaluation_id=evaluation))
            session.add(
                Evaluation(
                    id=evaluation,
                    project_id=exporting.project_id,
                    experiment_id=within,
                    job_id=job.id,
                    variant_id=variant["id"],
                    model=variant["model"],
                    dataset_id="ds_x",
                    split="test",
                    purpose="test",
                    metric="exact_match",
                    seed=0,
                    summary=summary(mean),
                )
            )
    folder, _ = exporting.unpacked(tmp_path / "out", model)
    card = (folder / "README.md").read_text()
    assert f"| {tuned['model']} | yes | exact_match | 0.7500 | 20 |" in card
    assert f"| {plain['model']} | no | exact_match | 0.2500 | 20 |" in card
    assert "0.5000" not in card, "of no experiment that these weights were in"
    assert "![Loss curves](curves.svg)" in card
    assert "3.000 at step 1, 1.000 at step 3. Validation loss 1.500 at step 2." in card
    assert "kept: step 2" in (folder / "curves.svg").read_text()


def test_exports_gguf_with_the_card_inside(exporting: Exporting, home: Path, tmp_path: Path) -> None:
    model = exporting.keep(make_adapter(home / "models" / BYTE_BASE, tmp_path / "adapter"), base=BYTE_BASE)
    job = exporting.done(model, format="gguf", dtype="q8_0")
    assert job["status"] == "succeeded", job
    assert job["result"]["filename"].endswith(".gguf")
    assert job["result"]["dtype"] == "q8_0"
    target = tmp_path / "model.gguf"
    target.write_bytes(exporting.client.get(f"/v1/files/{job['result']['file_id']}/content").content)
    fields = GGUFReader(target).fields
    assert fields["general.name"].contents() == model
    assert hashlib.sha256(DATA).hexdigest() in fields["uplift.model_card"].contents()
    refused = exporting.order(exporting.keep(tmp_path / "adapter"), format="gguf").json()["error"]
    assert refused["code"] == "format_not_possible"
    assert "convert_hf_to_gguf" in refused["message"]


def test_exports_a_checkpoint_and_says_which_step_it_is(exporting: Exporting, home: Path, tmp_path: Path) -> None:
    adapter = make_adapter(home / "models" / BASE, tmp_path / "adapter")
    folder, _ = exporting.unpacked(tmp_path / "out", exporting.keep(adapter, step=7))
    assert "weights of step 7" in (folder / "README.md").read_text()


def test_exports_a_wholly_tuned_model_merged_only(exporting: Exporting, home: Path, tmp_path: Path) -> None:
    whole = make_tiny_model(tmp_path / "whole", seed=5)
    model = exporting.keep(whole, recipe={"tune": "full"})
    refused = exporting.order(model).json()["error"]
    assert (refused["code"], refused["param"]) == ("format_not_possible", "format")
    folder, result = exporting.unpacked(tmp_path / "out", model, format="merged")
    expected = logits(AutoModelForCausalLM.from_pretrained(whole))
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder)), expected)
    assert result["largest_logit_difference"] == 0


def test_exports_the_adapter_of_a_variant_and_of_its_release(
    exporting: Exporting, client: TestClient, home: Path, tmp_path: Path
) -> None:
    adapter = make_adapter(home / "models" / BASE, tmp_path / "adapter")
    model = exporting.keep(adapter)
    with exporting.parts.database.transaction(exporting.project_id) as session:
        row_id = session.scalars(sa.select(AdapterRow.id).where(AdapterRow.model_id == model)).one()
    variant = client.post("/v1/variants", json={"name": "v", "base_model": BASE, "adapter": row_id}).json()
    client.post("/v1/releases", json={"model_id": "support", "variant": variant["id"]})
    first, _ = exporting.unpacked(tmp_path / "variant", variant["model"])
    second, result = exporting.unpacked(tmp_path / "release", "support")
    assert (first / "adapter_model.safetensors").read_bytes() == (second / "adapter_model.safetensors").read_bytes()
    assert result["filename"] == "support.adapter.zip"


def test_refuses_what_has_no_weights_of_its_own(exporting: Exporting, client: TestClient) -> None:
    variant = client.post("/v1/variants", json={"name": "p", "base_model": BASE}).json()
    for model, status, code in (
        (BASE, 400, "nothing_to_export"),
        (variant["model"], 400, "nothing_to_export"),
        ("ft:nobody:knows::this", 404, "model_not_found"),
    ):
        answer = exporting.order(model)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text


def test_refuses_formats_and_types_that_it_does_not_have(exporting: Exporting, home: Path, tmp_path: Path) -> None:
    model = exporting.keep(make_adapter(home / "models" / BASE, tmp_path / "adapter"))
    assert exporting.order(model, format="onnx").json()["error"]["param"] == "format"
    assert exporting.order(model, format="merged", dtype="q8_0").json()["error"]["param"] == "dtype"
    assert exporting.order(model, dtype="float16").json()["error"]["param"] == "dtype"


def test_keeps_weights_until_their_export_is_written(exporting: Exporting, home: Path, tmp_path: Path) -> None:
    model = exporting.keep(make_adapter(home / "models" / BASE, tmp_path / "adapter"))
    ordered = exporting.order(model).json()
    for door, code in (("models", "model_in_use"), ("adapters", "adapter_in_use")):
        refused = exporting.client.delete(f"/v1/{door}/{model}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, code)
        assert ordered["id"] in refused.json()["error"]["message"]
    assert exporting._runner.run(exporting.project_id, ordered["id"]) == "succeeded"
    assert exporting.client.delete(f"/v1/models/{model}").status_code == 200
    assert exporting.order(model).json()["error"]["code"] == "model_not_found"


def test_exports_the_weights_that_it_holds_though_a_release_moves_on_meanwhile(
    exporting: Exporting, client: TestClient, home: Path, tmp_path: Path
) -> None:
    database, project = exporting.parts.database, exporting.project_id
    folder = make_adapter(home / "models" / BASE, tmp_path / "adapter")
    models = [exporting.keep(folder) for _ in range(2)]
    with database.transaction(project) as session:
        ids = [session.scalars(sa.select(AdapterRow.id).where(AdapterRow.model_id == model)).one() for model in models]
    old, new = (
        client.post("/v1/variants", json={"name": "v", "base_model": BASE, "adapter": one}).json() for one in ids
    )
    client.post("/v1/releases", json={"model_id": "support", "variant": old["id"]})

    def waits_for_the_weights() -> bool:
        with database.transaction(project) as session:
            return bool(
                session.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"))
            )

    with ThreadPoolExecutor(1) as pool:
        with database.transaction(project) as session:
            lock_weights(session, ids[0])
            ordered = pool.submit(exporting.order, "support")
            wait_until(waits_for_the_weights, seconds=30)
            session.execute(sa.update(Release).values(variant_id=new["id"]))
        job_id = ordered.result(30).json()["id"]
    with database.transaction(project) as session:
        job = jobs.get(session, job_id)
        assert (job.subject_id, job.payload["weights_id"]) == (ids[0], ids[0])


def test_refuses_an_order_once_the_project_stores_all_that_it_may(
    exporting: Exporting, home: Path, tmp_path: Path, admin_database: Database
) -> None:
    model = exporting.keep(make_adapter(home / "models" / BASE, tmp_path / "adapter"))
    grant(admin_database, exporting.project_id, stored_bytes=len(DATA))
    refused = exporting.order(model)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")


def test_ends_with_a_name_when_the_weights_were_deleted_meanwhile(
    exporting: Exporting, home: Path, tmp_path: Path
) -> None:
    model = exporting.keep(make_adapter(home / "models" / BASE, tmp_path / "adapter"))
    ordered = exporting.order(model).json()
    with exporting.parts.database.transaction(exporting.project_id) as session:
        session.execute(sa.delete(AdapterRow).where(AdapterRow.model_id == model))
    exporting._runner.run(exporting.project_id, ordered["id"])
    job = exporting.client.get(f"/v1/jobs/{ordered['id']}").json()
    assert (job["status"], job["error"]["code"]) == ("failed", "model_not_found")
