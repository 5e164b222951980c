"""An evaluation survives the death of its worker; in a file of its own, since no other worker may take the job."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from services.evaluation import handlers
from services.evaluation.handlers import SingleEvaluation
from services.evaluation.tables import Answer, Evaluation
from shared.database import Database
from shared.settings import Settings
from tests.factories.datasets_of_values import make_dataset
from tests.fakes.processes import dispatcher, killed_at_the_end, wait_until, worker

pytestmark = pytest.mark.stack


def test_a_killed_worker_asks_no_question_twice(
    stack_environment: dict[str, str], database: Database, project_id: str, tmp_path: Path
) -> None:
    sizes = {"train": 1, "validation": 400, "test": 1}
    dataset = make_dataset(database, project_id, sizes=sizes)
    order = SingleEvaluation("tuned:slow", None, dataset, "validation", "exact_match", None, 0, None)
    with database.transaction(project_id) as session:
        evaluation_id = handlers.create_evaluation(session, project_id, order, Settings()).id
    answering = worker(stack_environment, tmp_path, app="tests.fakes.services_without_models", slots=40)
    first = worker(stack_environment, tmp_path, app="services.evaluation.worker", slots=1)
    with killed_at_the_end(answering, first, dispatcher(stack_environment, tmp_path)):
        wait_until(lambda: count(database, project_id, evaluation_id) >= 1, seconds=60)
        first.kill()
        before = answers(database, project_id, evaluation_id)
        with killed_at_the_end(worker(stack_environment, tmp_path, app="services.evaluation.worker", slots=1)):
            wait_until(lambda: count(database, project_id, evaluation_id) == 400, seconds=60)
            wait_until(lambda: summary(database, project_id, evaluation_id) is not None, seconds=30)
    after = answers(database, project_id, evaluation_id)
    assert len(before) < 400
    assert {key: after[key] for key in before} == before


def count(database: Database, project_id: str, evaluation_id: str) -> int:
    return len(answers(database, project_id, evaluation_id))


def answers(database: Database, project_id: str, evaluation_id: str) -> dict[str, Any]:
    with database.transaction(project_id) as session:
        query = sa.select(Answer.example_id, Answer.created_at).where(Answer.evaluation_id == evaluation_id)
        return dict(tuple(row) for row in session.execute(query))


def summary(database: Database, project_id: str, evaluation_id: str) -> dict[str, Any] | None:
    with database.transaction(project_id) as session:
        return session.scalars(sa.select(Evaluation.summary).where(Evaluation.id == evaluation_id)).one()
