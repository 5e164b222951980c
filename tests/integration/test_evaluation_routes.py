"""Experiments and evaluations over HTTP, before any worker touches them."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from services.evaluation import answering, repository
from services.evaluation.material import examples
from services.evaluation.report_answers import A_REPORT
from services.evaluation.routes import router
from shared.database import Database
from shared.jobs import Job
from shared.settings import Settings
from shared.storage import Storage
from shared.web import Caller, create_app
from shared.wiring import Wiring
from tests.factories.datasets_of_values import make_dataset
from tests.fakes.access import always

pytestmark = pytest.mark.stack


@pytest.fixture
def client(settings: Settings, project_id: str, database: Database) -> Iterator[TestClient]:
    who = Caller(project_id, "p", "org", "key", (), "req")
    app = create_app("evaluation", [router], wiring_factory=lambda: Wiring.from_settings(settings), access=always(who))
    with TestClient(app) as connected:
        yield connected


@pytest.fixture
def dataset_id(database: Database, project_id: str) -> str:
    return make_dataset(database, project_id)


def test_a_new_experiment_shows_every_step_and_runs_the_first_ones(client: TestClient, dataset_id: str) -> None:
    made = client.post("/v1/experiments", json={"dataset": dataset_id, "base_model": "none"})
    assert made.status_code == 200, made.text
    experiment = client.get(f"/v1/experiments/{made.json()['id']}").json()
    steps = {step["name"]: step for step in experiment["steps"]}
    assert experiment["status"] == "running"
    assert experiment["spec"]["release_as"] == "values"
    assert len(experiment["spec"]["shots"]) == 6
    assert {name for name, step in steps.items() if step["status"] == "running"} == {
        "train tuned",
        "create variants of base",
    }
    assert steps["train tuned"]["job_id"].startswith("ftjob-")
    assert steps["report"]["status"] == "waiting"
    assert [one["id"] for one in client.get("/v1/experiments").json()["data"]] == [experiment["id"]]


def test_the_same_step_of_an_experiment_is_never_sent_twice(
    client: TestClient, dataset_id: str, database: Database, project_id: str
) -> None:
    client.post("/v1/experiments", json={"dataset": dataset_id, "base_model": "none"})
    with database.transaction(project_id) as session:
        keys = list(session.scalars(sa.select(Job.dedupe_key)))
    assert len(keys) == 2
    assert None not in keys


def test_cancelling_twice_is_the_same_as_once(client: TestClient, dataset_id: str) -> None:
    made = client.post("/v1/experiments", json={"dataset": dataset_id, "base_model": "none"}).json()
    once = client.post(f"/v1/experiments/{made['id']}/cancel").json()
    twice = client.post(f"/v1/experiments/{made['id']}/cancel").json()
    assert once["status"] == "cancelled"
    assert once == twice
    assert {step["job_status"] for step in once["steps"]} == {"cancelled", None}


@pytest.mark.parametrize("path", ["", "/report", "/report.md", "/report.html"])
def test_what_is_not_there_is_a_404_in_openais_envelope(client: TestClient, path: str) -> None:
    answer = client.get(f"/v1/experiments/exp_none{path}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "experiment_not_found"


def test_a_report_that_is_not_written_yet_says_so(client: TestClient, dataset_id: str) -> None:
    made = client.post("/v1/experiments", json={"dataset": dataset_id, "base_model": "none"}).json()
    for path in ("report", "report.md", "report.html"):
        answer = client.get(f"/v1/experiments/{made['id']}/{path}")
        assert answer.status_code == 404
        assert "running" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"dataset": "ds_none"}, "dataset"),
        ({"vector_store": "vs_none"}, "vector_store"),
        ({"metric": "length"}, "metric"),
        ({"variants": ["raft+retrieval"]}, "vector_store"),
        ({"margin": 0}, "margin"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_wrong_order_names_the_field_and_leaves_nothing(
    client: TestClient, dataset_id: str, change: dict[str, object], param: str
) -> None:
    answer = client.post("/v1/experiments", json={"dataset": dataset_id, "base_model": "none"} | change)
    assert answer.status_code in {400, 404}
    assert answer.json()["error"]["param"] == param
    assert client.get("/v1/experiments").json()["data"] == []
    assert client.get("/v1/evaluations").json()["data"] == []


def test_an_evaluation_stays_off_the_test_split_unless_told(client: TestClient, dataset_id: str) -> None:
    made = client.post("/v1/evaluations", json={"dataset": dataset_id, "model": "none"}).json()
    assert made["split"] == "validation"
    assert made["status"] == "queued"
    assert made["purpose"] == "single"
    assert client.get(f"/v1/evaluations/{made['id']}").json() == made


def test_answers_come_in_pages_beside_their_questions(
    client: TestClient, dataset_id: str, database: Database, project_id: str
) -> None:
    made = client.post("/v1/evaluations", json={"dataset": dataset_id, "model": "none", "split": "test"}).json()
    said = {"text": "42", "finish_reason": "stop", "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    with database.transaction(project_id) as session:
        row = repository.evaluation(session, made["id"])
        asked = examples(session, dataset_id, "test")
        rows = [answering.scored(row, one, said | {"timings": {"total_ms": 1.0}}, retrieves=False) for one in asked]
        repository.add_answers(session, rows)
        repository.add_answers(session, rows)
    seen, after = [], ""
    while after is not None:
        query = {"limit": 10} | ({"after": after} if after else {})
        found = client.get(f"/v1/evaluations/{made['id']}/answers", params=query).json()
        seen += found["data"]
        after = found["last_id"] if found["has_more"] else None
    assert {one["id"] for one in seen} == {one.id for one in asked}
    assert len(seen) == len(asked)
    assert {one["question"]: one["reference"] for one in seen} == {one.question: one.answer for one in asked}


def test_reports_are_read_from_storage_under_a_policy_that_runs_nothing(
    client: TestClient, dataset_id: str, database: Database, project_id: str, settings: Settings
) -> None:
    made = client.post("/v1/experiments", json={"dataset": dataset_id, "base_model": "none"}).json()
    storage = Storage(settings.blob_url, cache=settings.home / "cache" / "blobs")
    key = storage.put_bytes(project_id, "<p>tables – 95 %</p>".encode()).key
    with database.transaction(project_id) as session:
        repository.save_report(session, project_id, made["id"], report=A_REPORT, html_key=key, markdown_key=key)
    page = client.get(f"/v1/experiments/{made['id']}/report.html")
    assert page.text == "<p>tables – 95 %</p>"
    assert "script-src" not in page.headers["Content-Security-Policy"]
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert client.get(f"/v1/experiments/{made['id']}/report").json() == A_REPORT
