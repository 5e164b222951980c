"""Quotas of projects: stored bytes and training jobs, claimed in the transaction that would exceed them."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from shared import jobs, quotas
from shared.database import Database
from shared.errors import QuotaExceeded
from shared.messages import TrainAdapter
from shared.settings import Settings
from tests.factories import quotas as quota_factory
from tests.factories.gateway import bearer, new_key, served

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def http(settings: Settings) -> Iterator[TestClient]:
    with served(settings) as client:
        yield client


@pytest.fixture
def key(database: Database, settings: Settings, project_id: str) -> str:
    return new_key(database, settings, project_id)


@pytest.fixture
def grant(admin_database: Database, project_id: str) -> Callable[..., None]:
    return partial(quota_factory.grant, admin_database, project_id)


def upload(http: TestClient, key: str, content: bytes) -> Any:
    return http.post("/v1/files", headers=bearer(key), files={"file": ("f", content)}, data={"purpose": "user_data"})


def test_ends_uploads_at_the_stored_bytes(http: TestClient, key: str, grant: Callable[..., None]) -> None:
    grant(stored_bytes=100)
    first = upload(http, key, b"a" * 60)
    assert first.status_code == 200
    refused = upload(http, key, b"b" * 41)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert "stores 60, and this would add 41" in refused.json()["error"]["message"]
    assert refused.headers["x-should-retry"] == "false"
    assert upload(http, key, b"c" * 40).status_code == 200
    assert http.delete(f"/v1/files/{first.json()['id']}", headers=bearer(key)).status_code == 200
    assert upload(http, key, b"d" * 60).status_code == 200


def order(database: Database, project_id: str, settings: Settings) -> bool:
    try:
        with database.transaction(project_id) as session:
            quotas.claim_training(session, project_id, settings)
            jobs.send(session, project_id, TrainAdapter(training_job_id="x"))
    except QuotaExceeded:
        return False
    return True


def test_lets_no_two_orders_slip_through_together(
    database: Database, project_id: str, settings: Settings, grant: Callable[..., None]
) -> None:
    grant(training_jobs_at_once=3)
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: order(database, project_id, settings), range(12)))
    assert sum(done) == 3


def test_counts_what_is_alive_and_what_began_in_a_day(
    database: Database, project_id: str, settings: Settings, grant: Callable[..., None]
) -> None:
    grant(training_jobs_at_once=1, training_jobs_per_day=2)
    assert [order(database, project_id, settings) for _ in range(2)] == [True, False]
    with database.transaction(project_id) as session:
        session.execute(sa.update(jobs.Job).values(status="cancelled"))
    assert order(database, project_id, settings)
    with database.transaction(project_id) as session:
        session.execute(sa.update(jobs.Job).where(jobs.Job.status == "queued").values(status="cancelled"))
    assert not order(database, project_id, settings)
    with database.transaction(project_id) as session:
        session.execute(sa.update(jobs.Job).values(created_at=sa.func.now() - sa.text("interval '25 hours'")))
    assert order(database, project_id, settings)


def test_refuses_a_training_job_over_http(http: TestClient, key: str, grant: Callable[..., None]) -> None:
    grant(training_jobs_per_day=1)
    line = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    sent = http.post(
        "/v1/files",
        headers=bearer(key),
        files={"file": ("t.jsonl", line * 12)},
        data={"purpose": "fine-tune"},
    )
    body = {"model": "smollm2-135m-instruct", "training_file": sent.json()["id"]}
    answers = [http.post("/v1/fine_tuning/jobs", headers=bearer(key), json=body) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429], answers[0].text
    assert answers[1].json()["error"]["code"] == "insufficient_quota"


def test_lets_no_project_raise_its_own_quota(database: Database, project_id: str) -> None:
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"), database.transaction(project_id) as session:
        session.execute(
            sa.text("INSERT INTO project_quotas (project_id, stored_bytes) VALUES (:p, 0)"), {"p": project_id}
        )
