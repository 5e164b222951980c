"""A whole experiment through the real job machinery, with stand-ins for the services that need models."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from services.evaluation import handlers, repository
from services.evaluation.errors import EmptySplit, NotReady, UnknownMetric
from services.evaluation.handlers import SingleEvaluation
from services.evaluation.schemas import CreateExperiment
from services.evaluation.tables import TestLook
from shared import read_models as others
from shared.database import Database
from shared.errors import QuotaExceeded
from shared.files import File
from shared.ids import new_id
from shared.jobs import Job
from shared.settings import Settings
from tests.conftest import make_project
from tests.factories.datasets_of_values import make_dataset
from tests.factories.quotas import grant, used_tokens
from tests.fakes.processes import Process, dispatcher, killed_at_the_end, wait_until, worker

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def processes(
    stack_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Process, ...]]:
    folder = tmp_path_factory.mktemp("processes")
    started = (
        dispatcher(stack_environment, folder),
        worker(stack_environment, folder, app="services.evaluation.worker", slots=4),
        worker(stack_environment, folder, app="tests.fakes.services_without_models", slots=80),
    )
    with killed_at_the_end(*started):
        yield started


@pytest.fixture
def dataset_id(database: Database, project_id: str) -> str:
    return make_dataset(database, project_id)


@pytest.fixture
def vector_store_id(database: Database, project_id: str) -> str:
    store, file_id = new_id("vs_"), new_id("file-")
    with database.transaction(project_id) as session:
        session.execute(
            sa.text(
                "INSERT INTO vector_stores (id, project_id, name, embedder, chunking, metadata, status) "
                "VALUES (:id, :project, 'corpus', 'none', '{}', '{}', 'completed')"
            ),
            {"id": store, "project": project_id},
        )
        session.execute(
            sa.text(
                "INSERT INTO vector_store_files (vector_store_id, file_id, project_id, filename, attributes) "
                "VALUES (:store, :file, :project, 'a.md', '{}')"
            ),
            {"store": store, "file": file_id, "project": project_id},
        )
        document = {"id": new_id("doc_"), "project_id": project_id, "vector_store_id": store, "file_id": file_id}
        document |= {"key": "a.md", "title": "a"}
        session.execute(sa.insert(others.documents).values(document))
    return store


def start(database: Database, project_id: str, **fields: Any) -> str:
    spec = CreateExperiment.model_validate({"base_model": "none", "name": "values"} | fields).to_spec("values")
    with database.transaction(project_id) as session:
        return handlers.create_experiment(session, project_id, spec, Settings()).id


def status(database: Database, project_id: str, experiment_id: str) -> str:
    with database.transaction(project_id) as session:
        return repository.experiment(session, experiment_id).status


def ended(database: Database, project_id: str, experiment_id: str) -> str:
    wait_until(lambda: status(database, project_id, experiment_id) != "running", seconds=90)
    return status(database, project_id, experiment_id)


def test_an_experiment_ends_with_a_report_and_a_release(
    processes: tuple[Process, ...], database: Database, project_id: str, dataset_id: str, vector_store_id: str
) -> None:
    experiment_id = start(database, project_id, dataset=dataset_id, vector_store=vector_store_id)
    assert ended(database, project_id, experiment_id) == "succeeded", logs(processes)
    with database.transaction(project_id) as session:
        found = repository.report(session, experiment_id)
        assert found is not None
        report = found.report
        assert found.html_key
        assert found.markdown_key
        kinds = sa.select(Job.kind, sa.func.count()).where(Job.parent_id == experiment_id).group_by(Job.kind)
        ordered = dict(tuple(row) for row in session.execute(kinds))
    assert [variant["name"] for variant in report["variants"]] == [
        "base",
        "base+prompt",
        "base+retrieval",
        "tuned",
        "raft+retrieval",
    ]
    assert report["winner"] == "raft+retrieval"
    assert report["release"]["model"] == "values"
    assert report["looks_at_test"] == 1
    assert report["manifest"]["hashes"]["dataset"] == "5e"
    assert {c["verdict"] for c in report["comparisons"] if c["variant"] == "raft+retrieval"} == {"better"}
    assert ordered["training.order_adapter"] == 2
    assert ordered["evaluation.evaluate_variant"] == 14
    assert ordered["generation.order_release"] == 1


def test_a_rerun_is_another_look_at_the_same_test_split_even_if_it_was_imported_again(
    processes: tuple[Process, ...], database: Database, project_id: str, dataset_id: str
) -> None:
    again = make_dataset(database, project_id)
    for dataset in (dataset_id, again):
        experiment_id = start(database, project_id, dataset=dataset, variants=["tuned"])
        assert ended(database, project_id, experiment_id) == "succeeded", logs(processes)
    with database.transaction(project_id) as session:
        assert repository.looks(session, "5e") == 2
        found = repository.report(session, experiment_id)
        assert found is not None
        assert found.report["looks_at_test"] == 2


def test_a_failing_step_fails_the_experiment_by_name_and_nothing_is_left_running(
    processes: tuple[Process, ...], database: Database, project_id: str, dataset_id: str
) -> None:
    experiment_id = start(database, project_id, dataset=dataset_id, base_model="broken")
    assert ended(database, project_id, experiment_id) == "failed", logs(processes)
    with database.transaction(project_id) as session:
        error = repository.experiment(session, experiment_id).error
    assert error is not None
    assert error["step"] == "train tuned"
    assert "The base model is broken." in error["message"]
    wait_until(lambda: open_jobs(database, project_id) == 0, seconds=30)


def test_cancel_stops_every_job_of_the_experiment(
    processes: tuple[Process, ...], database: Database, project_id: str, dataset_id: str
) -> None:
    experiment_id = start(database, project_id, dataset=dataset_id, base_model="slow")
    wait_until(lambda: running(database, project_id, "training.order_adapter"), seconds=30)
    with database.transaction(project_id) as session:
        assert handlers.cancel_experiment(session, experiment_id).status == "cancelled"
    wait_until(lambda: open_jobs(database, project_id) == 0, seconds=30)
    with database.transaction(project_id) as session:
        ends = {step.status for step in repository.steps(session, experiment_id)}
        assert session.scalars(sa.select(sa.func.count()).select_from(TestLook)).one() == 0
    assert not ends & {"waiting", "running"}
    assert "cancelled" in ends


def test_refuses_what_cannot_be_compared(database: Database, project_id: str, dataset_id: str) -> None:
    with pytest.raises(UnknownMetric, match="length"):
        start(database, project_id, dataset=dataset_id, metric="length")
    with pytest.raises(EmptySplit, match="test"):
        start(database, project_id, dataset=make_dataset(database, project_id, sizes={"train": 2, "validation": 2}))
    with pytest.raises(NotReady, match="pending"):
        start(database, project_id, dataset=make_dataset(database, project_id, status="pending"))
    with database.transaction(project_id) as session:
        assert repository.experiments(session, after=None, limit=10) == ([], False)


def test_trains_nothing_for_an_experiment_once_the_project_stores_all_that_it_may(
    database: Database, admin_database: Database, project_id: str, dataset_id: str
) -> None:
    grant(admin_database, project_id, stored_bytes=1)
    with database.transaction(project_id) as session:
        row = File(id=new_id("file-"), project_id=project_id, filename="f", purpose="user_data", bytes=1)
        row.sha256, row.blob_key = "s", "key"
        session.add(row)
    with pytest.raises(QuotaExceeded, match="stores 1"):
        start(database, project_id, dataset=dataset_id)


def test_an_evaluation_ends_by_name_once_the_months_tokens_are_used(
    processes: tuple[Process, ...], database: Database, admin_database: Database, project_id: str
) -> None:
    grant(admin_database, project_id, tokens_per_month=100)
    dataset = make_dataset(database, project_id, sizes={"train": 3, "validation": 800, "test": 3})
    order = SingleEvaluation("tuned:slow", None, dataset, "validation", "exact_match", None, 0, None)
    with database.transaction(project_id) as session:
        made = handlers.create_evaluation(session, project_id, order, Settings())
    wait_until(lambda: open_jobs(database, project_id) == 0, seconds=60)
    with database.transaction(project_id) as session:
        error, answered = session.get_one(Job, made.job_id).error, repository.answers(session, made.id)
    assert error is not None, logs(processes)
    assert error["code"] == "insufficient_quota"
    assert 0 < len(answered) < 800
    assert used_tokens(database, project_id) == 35 * len(answered)
    with pytest.raises(QuotaExceeded), database.transaction(project_id) as session:
        handlers.create_evaluation(session, project_id, order, Settings())
    with pytest.raises(QuotaExceeded):
        start(database, project_id, dataset=dataset)


def test_looks_cannot_be_taken_back(database: Database, project_id: str, dataset_id: str) -> None:
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
        with database.transaction(project_id) as session:
            session.execute(sa.delete(TestLook))


def test_another_project_sees_none_of_it(
    admin_database: Database, database: Database, project_id: str, dataset_id: str
) -> None:
    order = SingleEvaluation("tuned", None, dataset_id, "test", "exact_match", None, 0, None)
    with database.transaction(project_id) as session:
        handlers.create_evaluation(session, project_id, order, Settings())
        experiment_id = start(database, project_id, dataset=dataset_id)
    with database.transaction(make_project(admin_database)) as session:
        assert repository.evaluations(session, after=None, limit=10) == ([], False)
        assert repository.experiments(session, after=None, limit=10) == ([], False)
        assert repository.steps(session, experiment_id) == []


def running(database: Database, project_id: str, kind: str) -> bool:
    with database.transaction(project_id) as session:
        query = sa.select(Job.id).where(Job.kind == kind, Job.status == "running")
        return session.scalars(query).first() is not None


def open_jobs(database: Database, project_id: str) -> int:
    with database.transaction(project_id) as session:
        query = sa.select(sa.func.count()).select_from(Job).where(Job.status.in_(["queued", "running"]))
        return session.scalars(query).one()


def logs(processes: tuple[Process, ...]) -> str:
    return "\n".join(process.log.read_text()[-4000:] for process in processes)
