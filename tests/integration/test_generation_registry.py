"""Models, prompts, variants and releases over HTTP."""

import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session

from services.generation.routes import router
from services.training.search.tables import SearchRow
from services.training.tables import AdapterRow, CheckpointRow, TrainingJob
from shared import jobs
from shared.database import Database
from shared.ids import new_id
from shared.jobs.tables import Job
from shared.messages import OrderTraining, TrainAdapter
from shared.settings import Settings
from shared.web import Caller, create_app
from shared.wiring import Wiring
from tests.fakes.access import always

pytestmark = pytest.mark.stack


@pytest.fixture
def http(settings: Settings, project_id: str, tmp_path: Path) -> Iterator[TestClient]:
    for name, kind in (("small", "base"), ("reader", "embedder")):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.json").write_text("{}")
        (tmp_path / "models" / name / "uplift.json").write_text(f'{{"kind": "{kind}"}}')
    own = settings.model_copy(update={"home": tmp_path})
    who = Caller(project_id, "p", "org", "key", (), "req")
    app = create_app("generation", [router], wiring_factory=lambda: Wiring.from_settings(own), access=always(who))
    with TestClient(app) as connected:
        yield connected


def post(http: TestClient, path: str, **body: Any) -> dict[str, Any]:
    answer = http.post(f"/v1/{path}", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def variant(http: TestClient, name: str, **content: Any) -> dict[str, Any]:
    return post(http, "variants", name=name, base_model="small", **content)


def error(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_lists_base_models_first_then_the_newest_and_embedders_last(http: TestClient) -> None:
    first = variant(http, "one", sampling={"temperature": 0, "max_tokens": 1})
    second = variant(http, "two", sampling={"temperature": 0, "max_tokens": 2})
    post(http, "releases", model_id="best", variant=first["id"])
    listed = http.get("/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["small", "best", second["model"], first["model"], "reader"]
    assert {model["object"] for model in listed} == {"model"}
    assert http.get(f"/v1/models/{second['model']}").json()["kind"] == "variant"


def test_keeps_one_variant_of_equal_content(http: TestClient) -> None:
    prompt = {"instruction": "Be brief."}
    once, twice = variant(http, "v", prompt=prompt), variant(http, "v", prompt=prompt)
    other = variant(http, "v", prompt={"instruction": "Be long."})
    assert once["id"] == twice["id"] != other["id"]
    assert once["model"] != other["model"]
    assert http.get(f"/v1/prompts/{once['prompt']}").json()["spec"]["instruction"] == "Be brief."


def test_pages_through_variants_without_losing_any(http: TestClient) -> None:
    made = [variant(http, f"v{n}", sampling={"temperature": 0, "max_tokens": n + 1})["id"] for n in range(5)]
    found: list[str] = []
    more = True
    while more:
        after = f"&after={found[-1]}" if found else ""
        page = http.get(f"/v1/variants?limit=2{after}").json()
        found += [one["id"] for one in page["data"]]
        more = page["has_more"]
    assert found == made[::-1]


@pytest.mark.parametrize(
    ("content", "code"),
    [({"base_model": "none"}, "model_not_found"), ({"adapter": "ad_none"}, "variant_not_found")],
)
def test_refuses_a_variant_of_parts_that_are_not_there(http: TestClient, content: dict[str, str], code: str) -> None:
    answer = http.post("/v1/variants", json={"name": "v", "base_model": "small"} | content)
    assert error(answer) == (404, code)


def test_points_a_release_and_rolls_it_back(http: TestClient) -> None:
    good = variant(http, "good", sampling={"temperature": 0, "max_tokens": 1})
    bad = variant(http, "bad", sampling={"temperature": 0, "max_tokens": 2})
    made = post(http, "releases", model_id="best", variant=good["id"], evidence={"verdict": "better"})
    moved = post(http, "releases", model_id="best", variant=bad["id"])
    assert (moved["id"], moved["variant"]) == (made["id"], bad["id"])
    assert [entry["variant_id"] for entry in moved["history"]] == [good["id"], bad["id"]]
    back = post(http, f"releases/{made['id']}/rollback")
    assert back["variant"] == good["id"]
    assert back["history"][0]["evidence"] == {"verdict": "better"}
    assert error(http.post(f"/v1/releases/{made['id']}/rollback")) == (400, "nothing_to_roll_back")


def test_lets_no_release_hide_another_model(http: TestClient) -> None:
    made = variant(http, "v")
    for taken in ("small", made["model"]):
        answer = http.post("/v1/releases", json={"model_id": taken, "variant": made["id"]})
        assert error(answer) == (400, "alias_taken")


def test_deletes_a_variant_only_once_no_release_needs_it(http: TestClient) -> None:
    old = variant(http, "old", sampling={"temperature": 0, "max_tokens": 1})
    new = variant(http, "new", sampling={"temperature": 0, "max_tokens": 2})
    post(http, "releases", model_id="best", variant=old["id"])
    post(http, "releases", model_id="best", variant=new["id"])
    for used in (old, new):
        assert error(http.delete(f"/v1/models/{used['model']}")) == (400, "variant_in_use")
    assert http.delete("/v1/models/best").json() == {"id": "best", "object": "model", "deleted": True}
    assert http.delete(f"/v1/models/{old['model']}").json()["deleted"] is True
    assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["small", new["model"], "reader"]


def add_weights(database: Database, project_id: str, model_id: str, *, checkpoint: bool = False) -> str:
    """A row as training leaves it; answers its id."""
    row: dict[str, Any] = {"id": new_id("w_"), "project_id": project_id, "model_id": model_id, "base_model": "small"}
    row |= {"blob_key": f"{project_id}/{'0' * 64}", "metrics": {}}
    with database.transaction(project_id) as session:
        if checkpoint:
            job = jobs.send(session, project_id, TrainAdapter(training_job_id=""))
            plan = TrainingJob(id=job.id, project_id=project_id, base_model="small", seed=0, training_file="file-1")
            plan.recipe = plan.prompt = plan.metadata_ = {}
            session.add(plan)
            session.flush()
            session.add(CheckpointRow(**row, job_id=job.id, step=1))
        else:
            session.add(AdapterRow(**row, job_id=new_id("ftjob-"), recipe={}, train_seconds=1.0, trained_tokens=1))
    return str(row["id"])


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("model_id", ["ft:small:p:mine:1", "ft:org/small:p::1"])
def test_deletes_a_fine_tuned_model_at_once_and_orders_training_to_forget_it(
    http: TestClient, database: Database, project_id: str, model_id: str, checkpoint: bool
) -> None:
    weights = add_weights(database, project_id, model_id, checkpoint=checkpoint)
    path = f"/v1/models/{urllib.parse.quote(model_id, safe='')}"
    assert http.get(path).json()["id"] == model_id
    assert http.delete(path).json() == {"id": model_id, "object": "model", "deleted": True}
    assert error(http.get(path)) == (404, "model_not_found")
    assert error(http.delete(path)) == (404, "model_not_found")
    assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["small", "reader"]
    with database.transaction(project_id) as session:
        ordered = session.scalars(sa.select(Job).where(Job.kind == "training.delete_weights")).one()
        assert ordered.payload == {"weights_id": weights}


def continues_from(session: Session, project_id: str, weights: str, what: str) -> str:
    """Something unfinished that goes on from the weights; answers its id."""
    if what == "search":
        row = SearchRow(id=new_id("search_"), project_id=project_id, status="running", base_model="small")
        row.init_adapter_id, row.prompt, row.recipe, row.space, row.metadata_ = weights, {}, {}, {}, {}
        row.trials, row.parallel, row.pruning, row.seed, row.used_seconds = 1, 1, False, 0, 0.0
        session.add(row)
        return row.id
    if what == "order":
        order = OrderTraining(
            dataset_id="ds_1", base_model="small", recipe={}, prompt={}, suffix="s", seed=0, init_adapter_id=weights
        )
        return jobs.send(session, project_id, order).id
    job = jobs.send(session, project_id, TrainAdapter(training_job_id=""))
    plan = TrainingJob(id=job.id, project_id=project_id, base_model="small", seed=0, training_file="file-1")
    plan.recipe = plan.prompt = plan.metadata_ = {}
    plan.init_adapter_id = weights
    session.add(plan)
    return job.id


@pytest.mark.parametrize("what", ["job", "order", "search"])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_keeps_weights_that_training_goes_on_from(
    http: TestClient, database: Database, project_id: str, what: str, checkpoint: bool
) -> None:
    weights = add_weights(database, project_id, "ft:small:p::1", checkpoint=checkpoint)
    with database.transaction(project_id) as session:
        user = continues_from(session, project_id, weights, what)
    refused = http.delete("/v1/models/ft:small:p::1")
    assert error(refused) == (400, "model_in_use")
    assert user in refused.json()["error"]["message"]
    with database.transaction(project_id) as session:
        if what == "search":
            session.execute(sa.update(SearchRow).values(status="cancelled"))
        else:
            jobs.cancel(session, user)
    assert http.delete("/v1/models/ft:small:p::1").json()["deleted"] is True


def test_lets_nobody_make_a_variant_of_a_deleted_adapter(http: TestClient, database: Database, project_id: str) -> None:
    adapter = add_weights(database, project_id, "ft:small:p::1")
    http.delete("/v1/models/ft:small:p::1")
    answer = http.post("/v1/variants", json={"name": "v", "base_model": "small", "adapter": adapter})
    assert error(answer) == (404, "variant_not_found")


def test_keeps_an_adapter_that_a_variant_answers_with(http: TestClient, database: Database, project_id: str) -> None:
    adapter = add_weights(database, project_id, "ft:small:p::1")
    made = variant(http, "v", adapter=adapter)
    refused = http.delete("/v1/models/ft:small:p::1")
    assert error(refused) == (400, "model_in_use")
    assert made["model"] in refused.json()["error"]["message"]
    http.delete(f"/v1/models/{made['model']}")
    assert http.delete("/v1/models/ft:small:p::1").json()["deleted"] is True


def test_deletes_no_base_model(http: TestClient) -> None:
    assert error(http.delete("/v1/models/small")) == (403, "forbidden")
    assert error(http.delete("/v1/models/none")) == (404, "model_not_found")
