"""A search worker that is killed in the middle of a decision: no trial is lost, none is tried twice."""

from pathlib import Path

import optuna
import pytest
import redis
import sqlalchemy as sa

from services.training.handlers import NewTrainingJob
from services.training.recipe import Recipe
from services.training.search import repository
from services.training.search.handlers import NewSearch, create_search
from services.training.search.study import OptunaStudies
from services.training.search.tables import TrialRow
from services.training.settings import TrainingSettings
from shared.database import Database
from shared.jobs.tables import Job
from shared.prompt_format import PromptSpec
from shared.settings import Settings
from tests.factories.tiny_model import make_tiny_model
from tests.fakes.processes import dispatcher, killed_at_the_end, wait_until, worker
from tests.fakes.stalling_search_worker import STALLED
from tests.integration.test_training_jobs import add_dataset

pytestmark = pytest.mark.stack
TRIALS = 2


def order(database: Database, project_id: str, home: Path) -> str:
    base = NewTrainingJob(
        model="tiny",
        dataset_id=add_dataset(database, project_id),
        training_file=None,
        validation_file=None,
        recipe=Recipe(max_steps=4, batch_size=8, rank=2, alpha=4.0),
        auto=[],
        suffix=None,
        metadata={},
        prompt=PromptSpec(),
        max_passage_tokens=None,
        init_adapter=None,
    )
    space: dict[str, dict[str, object]] = {"learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}}
    wanted = NewSearch(base, space, trials=TRIALS, minutes=None, parallel=2, pruning=True, seed=0)
    with database.transaction(project_id) as session:
        return create_search(session, project_id, wanted, TrainingSettings(home=home)).id


def forget_earlier_work(admin_database: Database, settings: Settings) -> None:
    """What earlier tests left to be told and done: a worker with one slot takes about a second to pass over each."""
    with admin_database.system_transaction() as session:
        session.execute(sa.text("DELETE FROM outbox"))
    store = redis.Redis.from_url(settings.redis_url)
    store.delete("search", "training")
    store.close()


def test_killed_between_optunas_commit_and_ours_it_loses_and_doubles_no_trial(
    stack_environment: dict[str, str],
    admin_database: Database,
    database: Database,
    settings: Settings,
    project_id: str,
    tmp_path: Path,
) -> None:
    forget_earlier_work(admin_database, settings)
    make_tiny_model(tmp_path / "models" / "tiny")
    environment = stack_environment | {"UPLIFT_HOME": str(tmp_path)}
    search_id = order(database, project_id, tmp_path)

    def status() -> str:
        with database.transaction(project_id) as session:
            return repository.search(session, search_id).status

    def begun() -> list[TrialRow]:
        with database.transaction(project_id) as session:
            return repository.trials(session, search_id)

    studies = OptunaStudies(database.url)
    with killed_at_the_end(dispatcher(environment, tmp_path)):
        stalled = worker(environment, tmp_path, app="tests.fakes.stalling_search_worker", slots=1)
        with killed_at_the_end(stalled):
            wait_until((tmp_path / STALLED).exists, seconds=180)
        with (
            killed_at_the_end(worker(environment, tmp_path, app="services.training.search.worker", slots=2)),
            killed_at_the_end(worker(environment, tmp_path, app="services.training.worker", slots=1)),
        ):
            wait_until(lambda: len(begun()) > 0, seconds=180)
            ours = begun()
            known = optuna.load_study(study_name=search_id, storage=studies.storage()).trials  # forgotten at the end
            wait_until(lambda: status() != "running", seconds=180)
            wait_until(lambda: search_id not in optuna.get_all_study_names(studies.storage()), seconds=30)
    studies.close()
    assert status() == "succeeded"
    assert [(trial.number, trial.params) for trial in ours] == [(n, known[n].params) for n in range(len(ours))]

    with database.transaction(project_id) as session:
        trials = repository.trials(session, search_id)
        trained = session.scalars(sa.select(Job.id).where(Job.kind == "training.train_adapter")).all()
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert len({str(trial.params) for trial in trials}) == TRIALS
    assert trials[0].params == {"learning_rate": 1e-3}
    assert sorted(trained) == sorted(trial.job_id for trial in trials)
    assert {trial.status for trial in trials} <= {"complete", "pruned"}
