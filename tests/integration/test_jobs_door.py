"""What clients may steer at `/v1/jobs`: what they ordered, and nothing that follows from it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from shared import jobs, messages
from shared.database import Database
from shared.jobs.routes import router
from shared.messages import INTERNAL_KINDS, Command
from shared.web import Caller, create_app
from shared.wiring import Wiring
from tests.fakes.access import always

pytestmark = pytest.mark.stack
STEERED = {
    "data.import_dataset",
    "data.build_raft_dataset",
    "data.order_raft_dataset",
    "training.train_adapter",
    "training.order_adapter",
    "training.import_adapter",
    "training.export_model",
    "retrieval.index_vector_store",
    "generation.order_variants",
    "generation.order_release",
    "evaluation.evaluate_variant",
    "evaluation.run_eval",
    "evaluation.run_batch",
    "evaluation.compare_variants",
    "evaluation.write_report",
}
"""Each end of these is heard: by who shows them, by a listener, or by a trigger."""


class Toy(Command):
    kind = "test.toy"
    queue = "nobody"


@pytest.fixture
def http(wiring: Wiring, project_id: str) -> Iterator[TestClient]:
    unclosed = replace(wiring)
    unclosed.close = lambda: None  # type: ignore[method-assign]
    who = Caller(project_id, "tests", "org", "key", ("write",), "req")
    with TestClient(create_app("t", [router], wiring_factory=lambda: unclosed, access=always(who))) as client:
        yield client


def ordered(database: Database, project_id: str, kind: str) -> str:
    with database.transaction(project_id) as session:
        job = jobs.send(session, project_id, Toy())
        job.kind = kind
        return job.id


@pytest.mark.parametrize("kind", sorted(INTERNAL_KINDS))
def test_refuses_to_stop_what_no_client_ordered(
    http: TestClient, database: Database, project_id: str, kind: str
) -> None:
    job_id = ordered(database, project_id, kind)
    for steer in ("cancel", "pause"):
        answer = http.post(f"/v1/jobs/{job_id}/{steer}")
        error: dict[str, Any] = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "job_not_steerable", "job_id")
        assert kind in error["message"]
    assert http.get(f"/v1/jobs/{job_id}").json()["status"] == "queued"


def test_steers_what_clients_ordered(http: TestClient, database: Database, project_id: str) -> None:
    job_id = ordered(database, project_id, "evaluation.run_eval")
    became = [http.post(f"/v1/jobs/{job_id}/{steer}").json()["status"] for steer in ("pause", "resume", "cancel")]
    assert became == ["paused", "queued", "cancelled"]


def test_knows_of_every_command_whether_clients_may_stop_it() -> None:
    commands = [one for one in vars(messages).values() if isinstance(one, type) and issubclass(one, Command)]
    kinds = {one.kind for one in commands if hasattr(one, "kind")}
    assert kinds == STEERED | INTERNAL_KINDS
    assert not STEERED & INTERNAL_KINDS
