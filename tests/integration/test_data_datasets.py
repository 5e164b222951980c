"""Datasets from upload to frozen splits, through the real job runner and database."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from services.data.handlers import JOB_HANDLERS
from services.data.tables import ExampleRow
from shared import jobs
from shared.jobs.runner import JobRunner
from shared.wiring import Wiring
from tests.integration.test_data_files import client_of

pytestmark = pytest.mark.stack
DEMO = Path(__file__).resolve().parents[2] / "examples" / "postgresql_parameters" / "questions.jsonl"


@pytest.fixture
def http(wiring: Wiring, project_id: str) -> Iterator[TestClient]:
    client = client_of(wiring, project_id)
    yield client
    client.close()


def upload(http: TestClient, content: bytes, name: str = "questions.jsonl") -> str:
    answer = http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": (name, content)})
    return str(answer.json()["id"])


def order(http: TestClient, content: bytes, **options: Any) -> dict[str, Any]:
    answer = http.post("/v1/datasets", json={"file": upload(http, content), **options})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def run(wiring: Wiring, project_id: str, dataset: dict[str, Any]) -> str:
    return JobRunner(wiring, JOB_HANDLERS, worker="tests").run(project_id, dataset["job_id"])


def stored(wiring: Wiring, project_id: str, dataset_id: str) -> int:
    with wiring.database.transaction(project_id) as session:
        counted = sa.select(sa.func.count()).where(ExampleRow.dataset_id == dataset_id)
        return session.scalar(counted.select_from(ExampleRow)) or 0


def imported(http: TestClient, wiring: Wiring, project_id: str, content: bytes, **options: Any) -> dict[str, Any]:
    made = order(http, content, **options)
    assert run(wiring, project_id, made) == "succeeded"
    return dict(http.get(f"/v1/datasets/{made['id']}").json())


def rows(count: int, bad_line: int = 0) -> bytes:
    every: list[dict[str, Any]] = [
        {"question": f"What is thing{n}x?", "answer": str(n), "document": f"{n}.md"} for n in range(count)
    ]
    if bad_line:
        del every[bad_line - 1]["answer"]
    return "\n".join(json.dumps(row) for row in every).encode()


def test_imports_the_demo(http: TestClient, wiring: Wiring, project_id: str) -> None:
    ordered = order(http, DEMO.read_bytes(), seed=3)
    assert (ordered["status"], ordered["name"], ordered["sizes"]) == ("pending", "questions", None)
    assert http.get(f"/v1/datasets/{ordered['id']}/examples").json()["error"]["code"] == "dataset_not_ready"
    assert run(wiring, project_id, ordered) == "succeeded"
    made = http.get(f"/v1/datasets/{ordered['id']}").json()
    assert made["status"] == "ready"
    assert sum(made["sizes"].values()) == made["report"]["examples"] == 698
    assert made["report"]["leakage"]["clean"]
    assert made["lineage"]["filename"] == "questions.jsonl"
    (one,) = http.get(f"/v1/datasets/{ordered['id']}/examples", params={"limit": 1}).json()["data"]
    assert one["messages"][0]["role"] == "user"
    assert (one["documents"], one["cluster"]) == (["autovacuum.md"], "autovacuum.md")
    assert one["metadata"] == {"kind": "type", "source": "runtime-config-autovacuum.html"}
    assert (one["provenance"]["line"], one["passages"]) == (1, None)


def test_pages_through_a_split(http: TestClient, wiring: Wiring, project_id: str) -> None:
    made = imported(http, wiring, project_id, rows(50))
    seen: list[dict[str, Any]] = []
    where, more = f"/v1/datasets/{made['id']}/examples", True
    while more:
        after = {"after": seen[-1]["id"]} if seen else {}
        got = http.get(where, params={"split": "train", "limit": 9, **after}).json()
        seen, more = seen + got["data"], got["has_more"]
    assert len(seen) == made["sizes"]["train"] == 35
    assert [one["position"] for one in seen] == sorted({one["position"] for one in seen})
    assert {one["split"] for one in seen} == {"train"}
    assert http.get(where, params={"split": "tset"}).status_code == 400


def test_the_same_content_and_seed_freeze_to_the_same_hash(http: TestClient, wiring: Wiring, project_id: str) -> None:
    one, same = (imported(http, wiring, project_id, rows(40), seed=1) for _ in range(2))
    other = imported(http, wiring, project_id, rows(40), seed=2)
    assert one["id"] != same["id"]
    assert one["sha256"] == same["sha256"] != other["sha256"]


def test_a_bad_line_fails_the_job_and_the_dataset_and_leaves_nothing(
    http: TestClient, wiring: Wiring, project_id: str
) -> None:
    made = order(http, rows(5000, bad_line=4321))
    assert run(wiring, project_id, made) == "failed"
    shown = http.get(f"/v1/datasets/{made['id']}").json()
    assert shown["status"] == "failed"
    assert shown["error"]["message"].startswith('line 4321: field "answer" is missing')
    with wiring.database.transaction(project_id) as session:
        job = jobs.get(session, made["job_id"])
        assert (job.status, job.error) == ("failed", shown["error"])
    assert stored(wiring, project_id, made["id"]) == 0


def test_a_dataset_whose_job_was_cancelled_is_failed(http: TestClient, wiring: Wiring, project_id: str) -> None:
    made = order(http, rows(10))
    with wiring.database.transaction(project_id) as session:
        jobs.cancel(session, made["job_id"])
    shown = http.get(f"/v1/datasets/{made['id']}").json()
    assert (shown["status"], shown["error"]["code"]) == ("failed", "job_cancelled")
    assert http.delete(f"/v1/datasets/{made['id']}").json()["deleted"]


class Impatient(jobs.JobContext):
    """A claim whose owner asks to stop after some looks at the wish."""

    looks = 0
    wish = "cancel"

    def should_stop(self) -> str | None:
        self.looks += 1
        return self.wish if self.looks > 1 else None


@pytest.mark.parametrize(("wish", "left", "status"), [("cancel", 0, "failed"), ("handover", 2000, "pending")])
def test_stops_between_batches_and_a_rerun_repeats_nothing(
    http: TestClient,
    wiring: Wiring,
    project_id: str,
    monkeypatch: pytest.MonkeyPatch,
    wish: str,
    left: int,
    status: str,
) -> None:
    from services.data import handlers
    from shared.jobs import runner

    monkeypatch.setattr(handlers, "_READ_AT_ONCE", 10**6)
    monkeypatch.setattr(Impatient, "wish", wish)
    monkeypatch.setattr(handlers, "prepare", _prepare_without_looking)
    monkeypatch.setattr(runner, "JobContext", Impatient)
    made = order(http, rows(3000))
    assert run(wiring, project_id, made) == {"cancel": "cancelled", "handover": "handed over"}[wish]
    assert stored(wiring, project_id, made["id"]) == left
    shown = http.get(f"/v1/datasets/{made['id']}").json()
    assert shown["status"] == status
    if wish == "handover":
        monkeypatch.setattr(runner, "JobContext", jobs.JobContext)
        assert run(wiring, project_id, made) == "succeeded"
        assert stored(wiring, project_id, made["id"]) == 3000


def _prepare_without_looking(*positional: Any, beat: Any, **named: Any) -> Any:
    from services.data.preparation import prepare

    return prepare(*positional, **named)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"split": {"train": 0.9, "validation": 0.9, "test": 0.2}}, "split"),
        ({"split": {"train": 0.0, "validation": 0.5, "test": 0.5}}, "split"),
        ({"file": "file-none"}, "file_id"),
        ({"seed": -1}, "seed"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_refuses_an_order_it_cannot_carry_out(http: TestClient, body: dict[str, Any], param: str) -> None:
    answer = http.post("/v1/datasets", json={"file": upload(http, rows(10)), **body})
    assert answer.status_code in {400, 404}
    assert answer.json()["error"]["param"] == param
    assert http.get("/v1/datasets").json()["data"] == []


def test_lists_newest_first_and_deletes_with_examples(http: TestClient, wiring: Wiring, project_id: str) -> None:
    ids = [imported(http, wiring, project_id, rows(10), name=f"set {n}")["id"] for n in range(3)]
    got = http.get("/v1/datasets", params={"limit": 2}).json()
    assert [one["id"] for one in got["data"]] == ids[:0:-1]
    assert got["has_more"]
    assert "report" not in got["data"][0]
    assert http.delete(f"/v1/datasets/{ids[0]}").json() == {"id": ids[0], "object": "dataset", "deleted": True}
    assert http.get(f"/v1/datasets/{ids[0]}").status_code == 404
    assert stored(wiring, project_id, ids[0]) == 0


def test_refuses_to_delete_a_dataset_that_is_being_made(http: TestClient, wiring: Wiring, project_id: str) -> None:
    made = order(http, rows(10))
    answer = http.delete(f"/v1/datasets/{made['id']}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "dataset_busy")
    assert run(wiring, project_id, made) == "succeeded"


def test_a_file_deleted_before_the_import_fails_it_clearly(http: TestClient, wiring: Wiring, project_id: str) -> None:
    made = order(http, rows(10))
    http.delete(f"/v1/files/{made['lineage']['file_id']}")
    assert run(wiring, project_id, made) == "failed"
    shown = http.get(f"/v1/datasets/{made['id']}").json()
    assert (shown["status"], shown["error"]["code"]) == ("failed", "file_not_found")
