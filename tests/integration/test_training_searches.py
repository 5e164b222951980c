"""Searches on the real database with real Optuna, real child processes and a tiny model."""

import math
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from fastapi import Request
from fastapi.testclient import TestClient

from services.training.errors import InvalidRecipe
from services.training.handlers import JOB_HANDLERS as TRAINING
from services.training.handlers import RELEASE_HANDLERS
from services.training.recipe import Recipe
from services.training.routes import router as training_router
from services.training.search import domain
from services.training.search.handlers import JOB_HANDLERS as SEARCHES
from services.training.search.routes import router
from services.training.search.study import OptunaStudies, OptunaStudy
from services.training.search.wiring import SearchWiring
from services.training.settings import TrainingSettings
from shared import jobs
from shared.database import Database
from shared.files import get_file, remove_file
from shared.jobs.runner import JobRunner
from shared.jobs.tables import Job, JobEvent
from shared.messages import SteerSearch
from shared.settings import Settings
from shared.storage import BlobMissing
from shared.web import Caller, create_app
from shared.wiring import Wiring
from tests.factories.quotas import grant
from tests.factories.tiny_model import make_tiny_model
from tests.integration.test_training_jobs import add_dataset, add_file, chats

pytestmark = pytest.mark.stack
BASE = {"max_steps": 4, "batch_size": 8, "rank": 2, "alpha": 4.0, "max_length": 400}
SPACE = {"learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}, "rank": {"choices": [2, 4]}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searches-home")
    make_tiny_model(folder / "models" / "tiny")
    return folder


@pytest.fixture(scope="module")
def studies(settings: Settings, stack_environment: dict[str, str]) -> Iterator[OptunaStudies]:
    made = OptunaStudies(settings.database_url)
    yield made
    made.close()


@pytest.fixture
def parts(wiring: Wiring, settings: Settings, home: Path, studies: OptunaStudies) -> SearchWiring:
    own = TrainingSettings(**settings.model_dump() | {"home": home})
    return SearchWiring(
        settings=own, database=wiring.database, storage=wiring.storage, live=wiring.live, studies=studies
    )


@pytest.fixture
def client(parts: SearchWiring, project_id: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("UPLIFT_HOME", str(home))

    async def access(_request: Request, _parts: Wiring) -> Caller:
        return Caller(project_id, "tests", "org", "key", ("write",), "req")

    unclosed = replace(parts)
    unclosed.close = lambda: None  # type: ignore[method-assign]
    routers = [router, training_router]
    with TestClient(create_app("t", routers, wiring_factory=lambda: unclosed, access=access)) as open_client:
        yield open_client


class Workers:
    """A training and a search worker in this process, one job at a time."""

    def __init__(self, parts: SearchWiring, project_id: str) -> None:
        self._parts, self._project = parts, project_id
        self._runner = JobRunner(parts, TRAINING | RELEASE_HANDLERS | SEARCHES, worker="test")

    def queued(self, kind: str = "%") -> list[str]:
        due = sa.select(Job.id).where(Job.status == "queued", Job.run_after <= sa.func.now(), Job.kind.like(kind))
        with self._parts.database.transaction(self._project) as session:
            return list(session.scalars(due.order_by(Job.created_at)))

    def run(self, kind: str = "%") -> list[str]:
        """Run what is queued of this kind now; answers what became of each."""
        return [self._runner.run(self._project, job_id) for job_id in self.queued(kind)]

    def run_all(self) -> None:
        """Until nothing is queued; what searches decide goes before training, as with two workers."""
        while self.queued():
            if not self.run("search.%"):
                job_id, *_ = self.queued()
                self._runner.run(self._project, job_id)


@pytest.fixture
def workers(parts: SearchWiring, project_id: str) -> Workers:
    return Workers(parts, project_id)


def create(client: TestClient, **fields: Any) -> dict[str, Any]:
    body = {"model": "tiny", "recipe": BASE, "space": SPACE, "trials": 4} | fields
    answer = client.post("/v1/searches", json=body)
    assert answer.status_code == 200, answer.text
    created: dict[str, Any] = answer.json()
    return created


def show(client: TestClient, search_id: str) -> dict[str, Any]:
    shown: dict[str, Any] = client.get(f"/v1/searches/{search_id}").json()
    return shown


def trials(client: TestClient, search_id: str, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"/v1/searches/{search_id}/trials", params=query).json()["data"]
    return found


def measured(parts: SearchWiring, project_id: str, job_id: str, losses: list[float], *, ended: bool = False) -> None:
    """What a job of eight steps would have said, its validation losses after every second step."""
    with parts.database.transaction(project_id) as session:
        for place, loss in enumerate(losses, start=1):
            data = {"step": 2 * place, "total_steps": 8, "epoch": place / 4, "train_loss": loss, "valid_loss": loss}
            event = JobEvent(project_id=project_id, job_id=job_id, level="info", type="metrics", message="", data=data)
            event.step = 2 * place
            session.add(event)
        if ended:
            session.execute(sa.update(Job).where(Job.id == job_id).values(status="succeeded", result={}))


def look(parts: SearchWiring, project_id: str, workers: Workers, search_id: str) -> None:
    with parts.database.transaction(project_id) as session:
        jobs.send(session, project_id, SteerSearch(search_id=search_id))
    while workers.run("search.%"):
        pass


def finish_all(client: TestClient, parts: SearchWiring, project_id: str, workers: Workers, search_id: str) -> None:
    """Let every trial that is ordered succeed, without training, until the search orders none."""
    while running := [one for one in trials(client, search_id) if one["status"] == "running"]:
        for trial in running:
            measured(parts, project_id, trial["job"], [3.0], ended=True)
        look(parts, project_id, workers, search_id)


def fail(parts: SearchWiring, project_id: str, job_id: str) -> dict[str, Any]:
    error = {"code": "non_finite_loss", "message": "The loss is nan.", "param": None}
    with parts.database.transaction(project_id) as session:
        session.execute(sa.update(Job).where(Job.id == job_id).values(status="failed", error=error))
    return error


def test_tries_the_base_first_and_finds_the_recipe_with_the_lowest_validation_loss(
    client: TestClient, workers: Workers, parts: SearchWiring, project_id: str
) -> None:
    dataset = add_dataset(parts.database, project_id)
    search = create(client, dataset=dataset, trials=2, pruning=False, seed=3, metadata={"team": "a"})
    assert (search["status"], search["best"]) == ("running", None)
    workers.run_all()

    done, tried = show(client, search["id"]), trials(client, search["id"])
    assert done["status"] == "succeeded", done
    assert done["progress"]["trials"] == {"running": 0, "complete": 2, "pruned": 0, "stopped": 0, "failed": 0}
    assert [trial["number"] for trial in tried] == [0, 1]
    assert tried[0]["params"] == {"learning_rate": 1e-3, "rank": 2}
    assert list(tried[0]["params"]) == list(done["space"]) == ["learning_rate", "rank"], "in the recipe's order"
    assert len({trial["params"]["learning_rate"] for trial in tried}) == 2
    best = min(tried, key=lambda trial: trial["value"])
    assert done["best"]["number"] == best["number"]
    assert best["value"] == min(point["valid_loss"] for point in best["curve"])

    job = client.get(f"/v1/fine_tuning/jobs/{best['job']}").json()
    assert job["recipe"] == Recipe.from_differences(done["best"]["recipe"]).model_dump(mode="json")
    assert job["metadata"] == {"team": "a", "search": search["id"], "trial": str(best["number"])}
    assert (job["seed"], job["fine_tuned_model"]) == (3, best["fine_tuned_model"])

    told = client.get(f"/v1/searches/{search['id']}/report").json()
    assert told["best"] == done["best"]
    assert told["base_value"] == tried[0]["value"]
    assert told["warning"] is None
    assert "2 complete trials are too few" in told["importance"]["message"]
    for kind, media_type in (("md", "text/markdown"), ("html", "text/html")):
        answer = client.get(f"/v1/searches/{search['id']}/report.{kind}")
        assert answer.headers["content-type"].startswith(media_type)
        assert f"Trial {best['number']}: validation loss {best['value']:.4f}" in answer.text
    assert done["best"]["changes"].keys() >= {name for name in best["params"] if best["number"]}

    page = client.get(f"/v1/searches/{search['id']}/trials", params={"limit": 1, "order": "desc"}).json()
    assert ([one["number"] for one in page["data"]], page["has_more"]) == ([1], True)
    assert [one["number"] for one in trials(client, search["id"], after=page["last_id"], order="desc")] == [0]
    assert [one["id"] for one in client.get("/v1/searches").json()["data"]] == [search["id"]]


def test_trains_its_trials_on_files_that_are_gone_since_it_was_ordered(
    client: TestClient, workers: Workers, parts: SearchWiring, project_id: str
) -> None:
    content = chats()
    file_id = add_file(parts, project_id, content)
    search = create(client, training_file=file_id, validation_file=file_id, trials=2, parallel=1, pruning=False)["id"]
    with parts.database.transaction(project_id) as session:
        key = get_file(session, file_id).blob_key
        remove_file(session, parts.storage, get_file(session, file_id))
    workers.run_all()
    assert [trial["status"] for trial in trials(client, search)] == ["complete"] * 2
    with parts.database.transaction(project_id) as session:
        assert session.scalar(sa.text("SELECT count(*) FROM held_files")) == 0
    with pytest.raises(BlobMissing):
        parts.storage.open(project_id, key)


def has_study(parts: SearchWiring, search_id: str) -> bool:
    return search_id in optuna.get_all_study_names(parts.studies.storage())  # type: ignore[attr-defined]


@pytest.mark.parametrize("ends", ["succeeded", "failed", "cancelled"])
def test_forgets_the_study_of_a_search_that_has_ended_and_still_reports_on_it(
    client: TestClient, workers: Workers, parts: SearchWiring, project_id: str, ends: str
) -> None:
    dataset = add_dataset(parts.database, project_id)
    space = {"learning_rate": SPACE["learning_rate"]}
    search = create(client, dataset=dataset, space=space, trials=9, parallel=9, pruning=False)["id"]
    look(parts, project_id, workers, search)
    assert has_study(parts, search)
    for trial in trials(client, search):
        if ends == "succeeded":
            rate = math.log10(trial["params"]["learning_rate"])
            measured(parts, project_id, trial["job"], [3 + rate**2], ended=True)
        elif ends == "failed":
            fail(parts, project_id, trial["job"])
    if ends == "cancelled":
        client.post(f"/v1/searches/{search}/cancel")
    look(parts, project_id, workers, search)
    assert show(client, search)["status"] == ends
    assert not has_study(parts, search)

    report = client.get(f"/v1/searches/{search}/report").json()
    assert len(report["trials"]) == 9
    if ends == "succeeded":
        assert report["importance"]["parameters"][0]["name"] == "learning_rate"
    look(parts, project_id, workers, search)  # a word that comes late
    assert not has_study(parts, search)
    assert client.get(f"/v1/searches/{search}/report").json() == report


def test_keeps_the_study_while_a_trial_of_a_cancelled_search_still_stops(
    client: TestClient, workers: Workers, parts: SearchWiring, project_id: str
) -> None:
    search = create(client, dataset=add_dataset(parts.database, project_id), trials=2, parallel=1)["id"]
    look(parts, project_id, workers, search)
    (job_id,) = workers.queued("training.%")
    with parts.database.transaction(project_id) as session:
        running = {"status": "running", "worker": "w", "lease_expires_at": sa.func.now() + sa.text("interval '1 hour'")}
        session.execute(sa.update(Job).where(Job.id == job_id).values(running))
    client.post(f"/v1/searches/{search}/cancel")
    look(parts, project_id, workers, search)
    assert has_study(parts, search)
    with parts.database.transaction(project_id) as session:
        session.execute(sa.update(Job).where(Job.id == job_id).values(status="cancelled"))
    look(parts, project_id, workers, search)
    assert [one["status"] for one in trials(client, search)] == ["stopped"]
    assert not has_study(parts, search)


def test_tells_what_matters_and_where_it_is_right(
    client: TestClient, workers: Workers, parts: SearchWiring, project_id: str
) -> None:
    """Twelve trials whose losses the test makes up: the learning rate decides, and one of 0.01 is right."""
    dataset = add_dataset(parts.database, project_id)
    share = BASE | {"train_share": 0.5}
    search = create(client, dataset=dataset, trials=12, parallel=12, pruning=False, recipe=share)
    look(parts, project_id, workers, search["id"])
    for trial in trials(client, search["id"]):
        off = math.log10(trial["params"]["learning_rate"]) + 2
        measured(parts, project_id, trial["job"], [3 + off**2], ended=True)
    look(parts, project_id, workers, search["id"])
    assert show(client, search["id"])["status"] == "succeeded"

    told = client.get(f"/v1/searches/{search['id']}/report").json()
    assert told["importance"]["message"] is None
    assert told["importance"]["parameters"][0]["name"] == "learning_rate"
    assert told["importance"]["parameters"][0]["importance"] > 0.8
    path = told["paths"]["learning_rate"]
    best = min(path, key=lambda point: point["valid_loss"])
    assert (best["verdict"], 3e-3 < best["value"] < 3e-2) == ("right", True)
    page = client.get(f"/v1/searches/{search['id']}/report.html").text
    assert page.count("<svg") == 1 + len(told["paths"])
    assert page.count("<circle") >= 12
    assert told["warning"].startswith("Its trials learned from 50% of the rows, and what is best for learning_rate")
    assert told["warning"] in page
    assert told["warning"] in client.get(f"/v1/searches/{search['id']}/report.md").text


def test_refuses_what_cannot_be_searched_before_anything_starts(
    client: TestClient, workers: Workers, parts: SearchWiring, project_id: str
) -> None:
    dataset = add_dataset(parts.database, project_id)
    with parts.database.transaction(project_id) as session:
        session.execute(sa.text("UPDATE examples SET split = 'train' WHERE split = 'validation'"))
    body = {"model": "tiny", "dataset": dataset}
    refusals = [
        ({}, "no_validation_data", "dataset"),
        ({"space": {"seed": {"low": 1, "high": 2}}}, "no_validation_data", "dataset"),
        ({"dataset": None, "training_file": "file-1"}, "file_not_found", "training_file"),
        ({"model": "huge"}, "model_not_found", "model"),
        ({"recipe": "best"}, "unknown_recipe", "recipe"),
        ({"space": {}}, "invalid_input", "space"),
        ({"trials": 0}, "invalid_input", "trials"),
    ]
    for more, code, param in refusals:
        answer = client.post("/v1/searches", json=body | more)
        assert answer.status_code in {400, 404}, more
        assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param), more
    assert workers.queued() == []


def test_stops_a_trial_that_falls_behind_and_says_why(
    client: TestClient, workers: Workers, parts: SearchWiring, project_id: str
) -> None:
    dataset = add_dataset(parts.database, project_id)
    search = create(client, dataset=dataset, trials=6, parallel=6)
    look(parts, project_id, workers, search["id"])
    jobs_of = [trial["job"] for trial in trials(client, search["id"])]
    measured(parts, project_id, jobs_of[3], [9.0])
    look(parts, project_id, workers, search["id"])
    assert trials(client, search["id"])[3]["status"] == "running", "nobody else is complete yet"
    for job_id, losses in zip(
        jobs_of, ([4.0, 3.0, 2.0, 2.5], [5.0, 4.0, 3.0, 2.9], [6.0, 5.0, 4.0, 3.9]), strict=False
    ):
        measured(parts, project_id, job_id, losses, ended=True)
    measured(parts, project_id, jobs_of[4], [5.5])
    measured(parts, project_id, jobs_of[5], [3.9, 3.5, 3.4, 3.3])
    look(parts, project_id, workers, search["id"])

    found = trials(client, search["id"])
    assert [trial["status"] for trial in found[:3]] == ["complete"] * 3
    assert [trial["value"] for trial in found] == [2.0, 2.9, 3.9, 9.0, 5.5, 3.3]
    # at 25 %: 9.0, 4.0, 5.0, 6.0 and now 5.5; the two lowest go on
    assert found[4]["status"] == "pruned"
    assert found[4]["error"]["code"] == "pruned"
    assert "step 2 of 8" in found[4]["error"]["message"]
    events = client.get(f"/v1/fine_tuning/jobs/{jobs_of[4]}/events").json()["data"]
    assert any("better half" in event["message"] for event in events)
    assert client.get(f"/v1/fine_tuning/jobs/{jobs_of[4]}").json()["status"] == "cancelled"
    # the best so far all along, and at the end of its run: never stopped
    assert found[5]["status"] == "running"
    study = optuna.load_study(study_name=search["id"], storage=parts.studies.storage())  # type: ignore[attr-defined]
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3 + ["RUNNING", "PRUNED", "RUNNING"]


def test_a_validated_trial_tells_its_search_and_an_ordinary_job_nobody(
    client: TestClient, workers: Workers, parts: SearchWiring, project_id: str
) -> None:
    dataset = add_dataset(parts.database, project_id)
    recipe = BASE | {"max_steps": 4, "evals_per_epoch": 1, "batch_size": 4}
    client.post("/v1/fine_tuning/jobs", json={"model": "tiny", "dataset": dataset, "recipe": recipe})
    assert workers.run("training.%") == ["succeeded"]
    assert workers.queued() == []
    create(client, dataset=dataset, recipe=recipe, space={"dropout": {"low": 0.0, "high": 0.5}}, trials=1)
    assert workers.run("search.%") == ["succeeded"]
    assert workers.run("training.%") == ["succeeded"]
    # one word a validation, one at the end
    assert len(workers.queued("search.steer")) == 4, "two steps an epoch, validated after each"
    assert len(workers.queued("search.advance")) == 1


def test_pauses_with_its_trials_and_goes_on(
    client: TestClient, workers: Workers, parts: SearchWiring, project_id: str
) -> None:
    dataset = add_dataset(parts.database, project_id)
    search = create(client, dataset=dataset, trials=2, parallel=1, minutes=60)
    workers.run("search.%")
    paused = client.post(f"/v1/searches/{search['id']}/pause").json()
    assert (paused["status"], paused["progress"]["trials"]["running"]) == ("paused", 1)
    assert workers.queued("training.%") == [], "the trial is paused with it"
    again = client.post(f"/v1/searches/{search['id']}/pause")
    assert (again.status_code, again.json()["error"]["code"]) == (400, "search_not_steerable")
    look(parts, project_id, workers, search["id"])
    used = show(client, search["id"])["progress"]["seconds"]
    assert client.post(f"/v1/searches/{search['id']}/resume").json()["status"] == "running"
    assert len(workers.queued("training.%")) == 1
    finish_all(client, parts, project_id, workers, search["id"])
    done = show(client, search["id"])
    assert (done["status"], done["progress"]["trials"]["complete"]) == ("succeeded", 2)
    assert done["progress"]["seconds"] >= used
    with parts.database.transaction(project_id) as session:
        waiting = sa.select(sa.func.count()).where(Job.status == "queued")
        assert session.scalar(waiting) == 0, "the alarms for the end of the minutes are taken back"


def test_a_trial_that_fails_is_counted_and_the_search_goes_on(
    client: TestClient, workers: Workers, parts: SearchWiring, project_id: str
) -> None:
    dataset = add_dataset(parts.database, project_id)
    search = create(client, dataset=dataset, trials=3, parallel=1)
    workers.run("search.%")
    (job_id,) = workers.queued("training.%")
    failed = fail(parts, project_id, job_id)
    look(parts, project_id, workers, search["id"])
    (unmeasured,) = (one["job"] for one in trials(client, search["id"]) if one["status"] == "running")
    measured(parts, project_id, unmeasured, [], ended=True)
    look(parts, project_id, workers, search["id"])
    finish_all(client, parts, project_id, workers, search["id"])
    done, tried = show(client, search["id"]), trials(client, search["id"])
    assert [trial["status"] for trial in tried] == ["failed", "failed", "complete"]
    assert tried[0]["error"] == failed
    assert tried[1]["error"]["code"] == "never_validated"
    assert done["status"] == "succeeded"


def test_a_search_whose_trials_all_fail_fails_with_the_first_reason(
    client: TestClient, workers: Workers, parts: SearchWiring, project_id: str
) -> None:
    dataset = add_dataset(parts.database, project_id)
    search = create(client, dataset=dataset, trials=2, parallel=2)
    workers.run("search.%")
    for job_id in workers.queued("training.%"):
        fail(parts, project_id, job_id)
    look(parts, project_id, workers, search["id"])
    done = show(client, search["id"])
    assert (done["status"], done["error"]["code"]) == ("failed", "no_trial_completed")
    assert trials(client, search["id"])[0]["error"]["message"] in done["error"]["message"]
    assert done["best"] is None


def test_stops_what_runs_when_the_minutes_are_used_up(
    client: TestClient, workers: Workers, parts: SearchWiring, project_id: str
) -> None:
    dataset = add_dataset(parts.database, project_id)
    search = create(client, dataset=dataset, trials=9, parallel=2, minutes=60)
    workers.run("search.%")
    first, _second = workers.queued("training.%")
    measured(parts, project_id, first, [3.0], ended=True)
    workers.run("search.%")
    with parts.database.transaction(project_id) as session:
        session.execute(sa.text("UPDATE searches SET running_since = running_since - interval '2 hours'"))
        alarm = session.scalars(sa.text("SELECT alarm_id FROM searches")).one()
        session.execute(sa.update(Job).where(Job.id == alarm).values(run_after=sa.func.now()))
    workers.run_all()
    done, tried = show(client, search["id"]), trials(client, search["id"])
    assert done["status"] == "succeeded"
    assert sorted(trial["status"] for trial in tried) == ["complete", "stopped", "stopped"]
    assert {trial["error"]["code"] for trial in tried if trial["error"]} == {"out_of_time"}


def test_cancelling_cancels_the_trials_and_starts_nothing_more(
    client: TestClient, workers: Workers, parts: SearchWiring, project_id: str
) -> None:
    dataset = add_dataset(parts.database, project_id)
    search = create(client, dataset=dataset, trials=9, parallel=2, minutes=60)
    workers.run("search.%")
    assert client.post(f"/v1/searches/{search['id']}/cancel").json()["status"] == "cancelled"
    workers.run_all()
    assert [trial["status"] for trial in trials(client, search["id"])] == ["stopped", "stopped"]
    assert client.post(f"/v1/searches/{search['id']}/cancel").status_code == 400
    assert client.post(f"/v1/searches/{search['id']}/resume").status_code == 400


class Torn(OptunaStudies):
    """A worker that dies after Optuna has kept its part and before we have kept ours."""

    def open(self, plan: domain.StudyPlan) -> OptunaStudy:
        study = super().open(plan)
        asked = study.ask

        def ask(known: Collection[int]) -> domain.Point:
            asked(known)
            raise ConnectionError("torn")

        study.ask = ask  # type: ignore[method-assign]
        return study


def test_a_decision_that_is_torn_and_done_again_loses_and_doubles_no_trial(
    client: TestClient, workers: Workers, parts: SearchWiring, project_id: str, settings: Settings
) -> None:
    dataset = add_dataset(parts.database, project_id)
    search = create(client, dataset=dataset, trials=3, parallel=2)
    (steer,) = workers.queued("search.%")
    studies = Torn(settings.database_url)
    torn = replace(parts, studies=studies)
    assert JobRunner(torn, SEARCHES, worker="torn").run(project_id, steer) == "queued"
    studies.close()
    assert trials(client, search["id"]) == []
    for _ in range(2):  # and a word that is heard twice
        look(parts, project_id, workers, search["id"])
    assert [trial["number"] for trial in trials(client, search["id"])] == [0, 1]
    assert trials(client, search["id"])[0]["params"] == {"learning_rate": 1e-3, "rank": 2}
    assert len(workers.queued("training.%")) == 2
    study = optuna.load_study(study_name=search["id"], storage=parts.studies.storage())  # type: ignore[attr-defined]
    assert [trial.number for trial in study.trials] == [0, 1]


def test_a_look_that_cannot_go_on_ends_the_search_with_its_reason(
    client: TestClient, workers: Workers, parts: SearchWiring, project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = add_dataset(parts.database, project_id)
    search = create(client, dataset=dataset, trials=3, parallel=1)
    workers.run("search.%")
    (first,) = workers.queued("training.%")
    measured(parts, project_id, first, [3.0], ended=True)

    def no_recipe(_base: Any, _params: Any) -> Any:
        raise InvalidRecipe("These two do not go together.", param="recipe")

    monkeypatch.setattr("services.training.search.handlers.trial_recipe", no_recipe)
    look(parts, project_id, workers, search["id"])
    done = show(client, search["id"])
    assert (done["status"], done["error"]["code"]) == ("failed", "invalid_recipe")
    assert "do not go together" in done["error"]["message"]


def test_starts_no_trial_beyond_the_projects_quota(
    client: TestClient, workers: Workers, parts: SearchWiring, project_id: str, admin_database: Database
) -> None:
    dataset = add_dataset(parts.database, project_id)
    search = create(client, dataset=dataset, trials=4, parallel=2)
    quota = sa.text("INSERT INTO project_quotas (project_id, training_jobs_at_once) VALUES (:id, 1)")
    with admin_database.system_transaction() as session:
        session.execute(quota, {"id": project_id})
    workers.run("search.%")
    assert len(workers.queued("training.%")) == 1
    with admin_database.system_transaction() as session:
        session.execute(sa.text("UPDATE project_quotas SET training_jobs_per_day = 1"))
    (only,) = workers.queued("training.%")
    measured(parts, project_id, only, [3.0], ended=True)
    look(parts, project_id, workers, search["id"])
    done = show(client, search["id"])
    assert (done["status"], done["error"]["code"]) == ("failed", "insufficient_quota")
    assert workers.queued("training.%") == []


def test_begins_nothing_once_the_project_stores_all_that_it_may_but_lets_what_runs_go_on(
    client: TestClient, workers: Workers, parts: SearchWiring, project_id: str, admin_database: Database
) -> None:
    data = {
        name: add_file(parts, project_id, chats(8 + place)) for place, name in enumerate(("training", "validation"))
    }
    files = {f"{name}_file": file_id for name, file_id in data.items()}
    create(client, **files)
    grant(admin_database, project_id, stored_bytes=1)
    body = {"model": "tiny", "recipe": BASE, "space": SPACE, "trials": 4} | files
    refused = client.post("/v1/searches", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    workers.run("search.%")
    assert workers.queued("training.%"), "its trials were ordered with it"


def test_an_alarm_that_rings_too_early_is_set_again(
    client: TestClient, workers: Workers, parts: SearchWiring, project_id: str
) -> None:
    dataset = add_dataset(parts.database, project_id)
    create(client, dataset=dataset, trials=9, minutes=60)
    with parts.database.transaction(project_id) as session:
        first = session.scalars(sa.text("SELECT alarm_id FROM searches")).one()
        session.execute(sa.update(Job).where(Job.id == first).values(run_after=sa.func.now()))
    workers.run("search.%")
    with parts.database.transaction(project_id) as session:
        second = session.scalars(sa.text("SELECT alarm_id FROM searches")).one()
        left = session.execute(sa.select(Job.status, Job.run_after > sa.func.now()).where(Job.id == second)).one()
    assert second != first
    assert tuple(left) == ("queued", True)
