"""A fine-tuning job's diagnosis, and its remedy as a new job, on the real database with a real child process."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request
from fastapi.testclient import TestClient

from services.training.doctor.routes import router as doctor
from services.training.handlers import JOB_HANDLERS
from services.training.routes import router
from services.training.settings import TrainingSettings
from services.training.tables import TrainingJob
from shared.files import store_file
from shared.jobs.runner import JobRunner
from shared.settings import Settings
from shared.web import Caller, create_app
from shared.wiring import Wiring
from tests.factories.tiny_model import make_tiny_model

pytestmark = pytest.mark.stack
QUICK = {"max_steps": 4, "batch_size": 4, "rank": 2, "max_length": 100}
LONG = "x" * 90


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor-home")
    make_tiny_model(folder / "models" / "tiny")
    return folder


@pytest.fixture
def training_wiring(wiring: Wiring, settings: Settings, home: Path) -> Wiring:
    return replace(wiring, settings=TrainingSettings(**settings.model_dump() | {"home": home}))


@pytest.fixture
def client(
    training_wiring: Wiring, project_id: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    monkeypatch.setenv("UPLIFT_HOME", str(home))

    async def access(_request: Request, _parts: Wiring) -> Caller:
        return Caller(project_id, "tests", "org", "key", ("write",), "req")

    unclosed = replace(training_wiring)
    unclosed.close = lambda: None  # type: ignore[method-assign]
    app = create_app("t", [router, doctor], wiring_factory=lambda: unclosed, access=access)
    with TestClient(app) as open_client:
        yield open_client


def chats(wiring: Wiring, project_id: str, answers: list[str]) -> str:
    turns = [
        [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": answer}]
        for n, answer in enumerate(answers)
    ]
    lines = [json.dumps({"messages": turn}).encode() + b"\n" for turn in turns]
    with wiring.database.transaction(project_id) as session:
        row = store_file(
            session, wiring.storage, project_id, filename="chats.jsonl", purpose="fine-tune", chunks=iter(lines)
        )
        return str(row.id)


def ask(client: TestClient, method: str, path: str, **body: Any) -> dict[str, Any]:
    answer = client.request(method, f"/v1/fine_tuning/jobs{path}", json=body if method == "POST" else None)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_diagnoses_a_run_and_trains_again_with_the_remedy(
    client: TestClient, training_wiring: Wiring, project_id: str
) -> None:
    train = chats(training_wiring, project_id, [str(n) for n in range(20)] + [LONG] * 4)
    validation = chats(training_wiring, project_id, ["one", "two", "three", "four"])
    job = ask(client, "POST", "", model="tiny", recipe=QUICK, training_file=train, validation_file=validation, seed=3)
    before = ask(client, "GET", f"/{job['id']}/diagnosis")
    assert (before["verdict"], before["findings"]) == ("too_early", [])
    runner = JobRunner(training_wiring, JOB_HANDLERS, worker="test")
    assert runner.run(project_id, job["id"]) == "succeeded", ask(client, "GET", f"/{job['id']}")["error"]

    found = ask(client, "GET", f"/{job['id']}/diagnosis")
    assert found["verdict"] == "truncated_answers"
    evidence = {one["name"]: one["value"] for one in found["findings"][0]["evidence"]}
    assert evidence["share of examples left out"] == pytest.approx(4 / 28)
    assert found["findings"][0]["remedy"]["recipe"]["max_length"] >= evidence["tokens of the longest example"] > 100
    assert found["valid_loss"] > 0
    assert not any("forgetting" in reason for reason in found["not_judged"])

    again = ask(client, "POST", f"/{job['id']}/remedy")
    assert again["recipe"] == job["recipe"] | {"max_length": found["findings"][0]["remedy"]["recipe"]["max_length"]} | {
        name: again["recipe"][name] for name in ("epochs", "learning_rate")
    }
    assert (again["training_file"], again["validation_file"]) == (train, validation)
    assert runner.run(project_id, again["id"]) == "succeeded"
    assert "truncated_answers" not in [
        one["verdict"] for one in ask(client, "GET", f"/{again['id']}/diagnosis")["findings"]
    ]
    (tried,) = ask(client, "GET", f"/{job['id']}/diagnosis")["remedies"]
    assert (tried["fine_tuning_job_id"], tried["verdict"], tried["status"]) == (
        again["id"],
        "truncated_answers",
        "succeeded",
    )
    assert tried["valid_loss"] > 0
    assert tried["comparable"]
    assert tried["found_again"] is False


def test_forgetting_is_counted_from_where_the_job_began(
    client: TestClient, training_wiring: Wiring, project_id: str
) -> None:
    train = chats(training_wiring, project_id, [str(n) for n in range(16)])
    runner, model, general = JobRunner(training_wiring, JOB_HANDLERS, worker="test"), "tiny", []
    for _ in range(2):
        job = ask(client, "POST", "", model=model, recipe=QUICK | {"learning_rate": 0.05}, training_file=train, seed=3)
        assert runner.run(project_id, job["id"]) == "succeeded"
        model = ask(client, "GET", f"/{job['id']}")["fine_tuned_model"]
        events = ask(client, "GET", f"/{job['id']}/events?limit=100")["data"]
        general += [event["data"]["general_ability"] for event in events if "general_ability" in (event["data"] or {})]
    first, second = general
    assert abs(first["after"] - first["before"]) > 0.01
    assert second["before"] == pytest.approx(first["after"], abs=1e-3)


def test_a_remedy_for_forgetting_is_scored_again_on_the_general_questions(
    client: TestClient, training_wiring: Wiring, project_id: str
) -> None:
    """Seen by the same measure that the verdict was by, whatever the validation loss did."""
    train = chats(training_wiring, project_id, ["0" * 8] * 16)
    validation = chats(training_wiring, project_id, ["0" * 8] * 4)
    harsh = QUICK | {"max_steps": 20, "epochs": 20, "learning_rate": 0.05, "patience": None}
    job = ask(client, "POST", "", model="tiny", recipe=harsh, training_file=train, validation_file=validation, seed=3)
    runner = JobRunner(training_wiring, JOB_HANDLERS, worker="test")
    assert runner.run(project_id, job["id"]) == "succeeded"
    again = ask(client, "POST", f"/{job['id']}/remedy", verdict="forgetting")
    (waits,) = ask(client, "GET", f"/{job['id']}/diagnosis")["remedies"]
    assert (waits["general_ability"], waits["found_again"]) == (None, None)
    assert runner.run(project_id, again["id"]) == "succeeded"

    found = ask(client, "GET", f"/{job['id']}/diagnosis")
    (tried,) = found["remedies"]
    first, now = found["general_ability"], tried["general_ability"]
    assert first["after"] - first["before"] >= 0.25
    assert now["before"] == pytest.approx(first["before"], abs=1e-3)
    assert now["after"] < first["after"]
    remedied = ask(client, "GET", f"/{again['id']}/diagnosis")
    assert now == remedied["general_ability"]
    assert tried["found_again"] == ("forgetting" in [one["verdict"] for one in remedied["findings"]])


def test_forecasts_from_runs_on_smaller_shares(client: TestClient, training_wiring: Wiring, project_id: str) -> None:
    train = chats(training_wiring, project_id, [str(n) for n in range(16)])
    validation = chats(training_wiring, project_id, ["one", "two", "three", "four"])
    job = ask(client, "POST", "", model="tiny", recipe=QUICK, training_file=train, validation_file=validation, seed=3)
    runner = JobRunner(training_wiring, JOB_HANDLERS, worker="test")
    early = client.post(f"/v1/fine_tuning/jobs/{job['id']}/learning_curve")
    assert (early.status_code, early.json()["error"]["code"]) == (400, "hyperparameters_not_chosen")
    assert runner.run(project_id, job["id"]) == "succeeded"
    smaller = ask(client, "POST", f"/{job['id']}/learning_curve")["data"]
    job = ask(client, "GET", f"/{job['id']}")
    assert {one["recipe"]["learning_rate"] for one in smaller} == {job["recipe"]["learning_rate"]}
    assert [one["recipe"]["train_share"] for one in smaller] == [0.25, 0.5]
    for one in smaller:
        assert ask(client, "GET", f"/{job['id']}/diagnosis")["forecast"] is None
        assert runner.run(project_id, one["id"]) == "succeeded"
    told = ask(client, "GET", f"/{job['id']}/diagnosis")["forecast"]
    assert told["examples"] == 32
    assert told["low"] <= told["gain"] <= told["high"]


def test_trains_again_in_the_budget_of_the_job(client: TestClient, training_wiring: Wiring, project_id: str) -> None:
    """Its minutes, and the micro-batch that a lack of memory left it with."""
    train = chats(training_wiring, project_id, [str(n) for n in range(16)])
    job = ask(client, "POST", "", model="tiny", recipe=QUICK, training_file=train, max_minutes=30)
    runner = JobRunner(training_wiring, JOB_HANDLERS, worker="test")
    assert runner.run(project_id, job["id"]) == "succeeded"
    with training_wiring.database.transaction(project_id) as session:
        session.get_one(TrainingJob, job["id"]).micro_batch_tokens = 64
    for one in ask(client, "POST", f"/{job['id']}/learning_curve")["data"]:
        assert (one["max_minutes"], one["recipe"]["micro_batch_tokens"]) == (30, 64)


def test_refuses_to_remedy_what_it_did_not_find(client: TestClient, training_wiring: Wiring, project_id: str) -> None:
    train = chats(training_wiring, project_id, ["a", "b"])
    job = ask(client, "POST", "", model="tiny", recipe=QUICK, training_file=train)
    for body in ({}, {"verdict": "overfitting"}):
        refused = client.post(f"/v1/fine_tuning/jobs/{job['id']}/remedy", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "nothing_to_remedy")


@pytest.mark.parametrize("method", ["diagnosis", "remedy"])
def test_an_unknown_job_is_not_found(client: TestClient, method: str) -> None:
    path = f"/v1/fine_tuning/jobs/ftjob-none/{method}"
    answer = client.get(path) if method == "diagnosis" else client.post(path, json={})
    assert answer.status_code == 404
