"""OpenAI's Evals over HTTP, before any worker touches them: evals, runs, what is refused and by which name."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from shared import jobs
from shared.database import Database
from shared.settings import Settings
from tests.conftest import make_project
from tests.factories.evals import EXACT, ITEM_SCHEMA, client_of, completions, content, row, uploaded

pytestmark = pytest.mark.stack
ROWS = content(row("q"))
JUDGE = [{"role": "user", "content": "{{sample.output_text}}"}]


def order(**changes: Any) -> dict[str, Any]:
    config = {"type": "custom", "item_schema": ITEM_SCHEMA, "include_sample_schema": True}
    return {"name": "facts", "data_source_config": config, "testing_criteria": [EXACT]} | changes


@pytest.fixture
def client(settings: Settings, project_id: str) -> Iterator[TestClient]:
    with client_of(settings, project_id) as connected:
        yield connected


@pytest.fixture
def eval_id(client: TestClient) -> str:
    made = client.post("/v1/evals", json=order())
    assert made.status_code == 200, made.text
    return made.json()["id"]


def test_an_eval_comes_back_with_the_schema_of_both_namespaces(client: TestClient) -> None:
    made = client.post("/v1/evals", json=order(metadata={"team": "a"})).json()
    assert made["id"].startswith("eval_")
    assert made["object"] == "eval"
    assert made["metadata"] == {"team": "a"}
    assert made["testing_criteria"] == [EXACT]
    schema = made["data_source_config"]["schema"]
    assert made["data_source_config"]["type"] == "custom"
    assert schema["properties"]["item"] == ITEM_SCHEMA
    assert "output_text" in schema["properties"]["sample"]["properties"]
    assert schema["required"] == ["item", "sample"]
    assert client.get(f"/v1/evals/{made['id']}").json() == made


def test_without_samples_the_schema_has_items_alone(client: TestClient) -> None:
    config = {"type": "custom", "item_schema": ITEM_SCHEMA}
    criterion = EXACT | {"input": "{{item.question}}"}
    made = client.post("/v1/evals", json=order(data_source_config=config, testing_criteria=[criterion])).json()
    assert made["data_source_config"]["schema"]["required"] == ["item"]


def test_an_update_changes_only_what_it_names(client: TestClient) -> None:
    made = client.post("/v1/evals", json=order(metadata={"team": "a"})).json()
    renamed = client.post(f"/v1/evals/{made['id']}", json={"name": "new"}).json()
    assert (renamed["name"], renamed["metadata"]) == ("new", {"team": "a"})
    cleared = client.post(f"/v1/evals/{made['id']}", json={"metadata": None}).json()
    assert (cleared["name"], cleared["metadata"]) == ("new", None)
    assert cleared["created_at"] == made["created_at"]


def test_a_deleted_eval_is_gone_with_its_runs(client: TestClient, eval_id: str) -> None:
    run = client.post(f"/v1/evals/{eval_id}/runs", json={"data_source": completions(ROWS)}).json()
    assert client.delete(f"/v1/evals/{eval_id}").json() == {
        "object": "eval.deleted",
        "deleted": True,
        "eval_id": eval_id,
    }
    for path in (f"/v1/evals/{eval_id}", f"/v1/evals/{eval_id}/runs/{run['id']}", f"/v1/evals/{eval_id}/runs"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] in {"eval_not_found", "eval_run_not_found"}


@pytest.mark.parametrize(("by", "direction"), [("created_at", "asc"), ("created_at", "desc"), ("updated_at", "desc")])
def test_evals_are_listed_in_pages_to_the_end(client: TestClient, by: str, direction: str) -> None:
    ids = [client.post("/v1/evals", json=order(name=str(number))).json()["id"] for number in range(5)]
    client.post(f"/v1/evals/{ids[1]}", json={"name": "touched"})
    by_update = [ids[0], *ids[2:], ids[1]]
    expected = ids if by == "created_at" else by_update
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        query = {"limit": "2", "order": direction, "order_by": by} | after
        found = client.get("/v1/evals", params=query).json()
        seen += [one["id"] for one in found["data"]]
        if not found["has_more"]:
            break
        after = {"after": found["last_id"]}
    assert seen == (expected if direction == "asc" else expected[::-1])


@pytest.mark.parametrize(
    ("changes", "param", "says"),
    [
        ({"data_source_config": {"type": "logs"}}, "data_source_config.type", "logs"),
        ({"data_source_config": {"type": "stored_completions"}}, "data_source_config.type", "stored_completions"),
        (
            {"data_source_config": {"type": "custom", "item_schema": {"type": "strange"}}},
            "data_source_config.item_schema",
            "JSON Schema",
        ),
        ({"testing_criteria": []}, "testing_criteria", "at least 1"),
        (
            {"testing_criteria": [{"type": "python", "name": "p", "source": ""}]},
            "testing_criteria.0.type",
            "This server has none",
        ),
        ({"testing_criteria": [{"type": "multi", "name": "m"}]}, "testing_criteria.0.type", "fine-tuning"),
        ({"testing_criteria": [EXACT | {"operation": "near"}]}, "testing_criteria.0.operation", "ilike"),
        ({"testing_criteria": [EXACT, EXACT | {"extra": 1}]}, "testing_criteria.1.extra", "not permitted"),
        (
            {"testing_criteria": [EXACT | {"input": "{{item.querstion}}"}]},
            "testing_criteria.0.input",
            "'exact': {{item.querstion}} names 'querstion'",
        ),
        ({"testing_criteria": [EXACT | {"reference": "{{1 + 1}}"}]}, "testing_criteria.0.reference", "no variable"),
        (
            {
                "testing_criteria": [
                    {"type": "label_model", "name": "l", "model": "m", "input": JUDGE, "labels": ["a"]}
                    | {"passing_labels": ["b"]}
                ]
            },
            "testing_criteria.0",
            "'b' is not one of the labels",
        ),
        (
            {"testing_criteria": [{"type": "score_model", "name": "s", "model": "m", "input": JUDGE, "range": [1, 0]}]},
            "testing_criteria.0",
            "range",
        ),
        (
            {
                "testing_criteria": [
                    {"type": "score_model", "name": "s", "model": "m"}
                    | {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}
                ]
            },
            "testing_criteria.0.input.0.content",
            "input_image",
        ),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "512"),
        ({"unknown": 1}, "unknown", "not permitted"),
    ],
)
def test_a_wrong_eval_is_a_400_that_names_the_field(
    client: TestClient, changes: dict[str, Any], param: str, says: str
) -> None:
    answer = client.post("/v1/evals", json=order(**changes))
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert says in answer.json()["error"]["message"]
    assert client.get("/v1/evals").json()["data"] == []


def test_a_sample_cannot_be_named_where_none_is_expected(client: TestClient) -> None:
    config = {"type": "custom", "item_schema": ITEM_SCHEMA}
    answer = client.post("/v1/evals", json=order(data_source_config=config))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "testing_criteria.0.input"


def test_a_new_run_is_queued_with_nothing_counted(client: TestClient, eval_id: str) -> None:
    source = completions(ROWS, sampling_params={"temperature": 0, "max_completion_tokens": 4})
    answer = client.post(f"/v1/evals/{eval_id}/runs", json={"data_source": source, "name": "first"})
    assert answer.status_code == 200, answer.text
    run = answer.json()
    assert run["id"].startswith("evalrun_")
    assert (run["object"], run["status"], run["model"], run["eval_id"]) == ("eval.run", "queued", "echo", eval_id)
    assert run["data_source"] == source
    assert run["result_counts"] == {"total": 0, "passed": 0, "failed": 0, "errored": 0}
    assert run["per_testing_criteria_results"] == [
        {"testing_criteria": "exact", "passed": 0, "failed": 0, "errored": 0, "pass_rate": None}
    ]
    assert (run["per_model_usage"], run["error"], run["report_url"]) == ([], None, None)
    assert client.get(f"/v1/evals/{eval_id}/runs/{run['id']}").json() == run


@pytest.mark.parametrize("form", ["/cancel", ""])
def test_a_run_is_cancelled_in_both_forms_and_never_twice(client: TestClient, eval_id: str, form: str) -> None:
    run = client.post(f"/v1/evals/{eval_id}/runs", json={"data_source": completions(ROWS)}).json()
    path = f"/v1/evals/{eval_id}/runs/{run['id']}{form}"
    assert client.post(path).json()["status"] == "canceled"
    again = client.post(path)
    assert again.status_code == 400
    assert again.json()["error"]["code"] == "job_already_ended"


def test_runs_are_listed_by_status(client: TestClient, eval_id: str) -> None:
    ids = [
        client.post(f"/v1/evals/{eval_id}/runs", json={"data_source": completions(ROWS)}).json()["id"] for _ in range(3)
    ]
    client.post(f"/v1/evals/{eval_id}/runs/{ids[1]}/cancel")

    def listed(**query: str) -> list[str]:
        found = client.get(f"/v1/evals/{eval_id}/runs", params=query).json()
        return [one["id"] for one in found["data"]]

    assert listed() == ids
    assert listed(status="queued") == [ids[0], ids[2]]
    assert listed(status="canceled") == [ids[1]]
    assert listed(status="completed") == []
    assert listed(order="desc", after=ids[2], limit="1") == [ids[1]]


def test_a_deleted_run_is_gone_and_its_job_cancelled(
    client: TestClient, eval_id: str, database: Database, project_id: str
) -> None:
    run = client.post(f"/v1/evals/{eval_id}/runs", json={"data_source": completions(ROWS)}).json()
    path = f"/v1/evals/{eval_id}/runs/{run['id']}"
    assert client.delete(path).json() == {"object": "eval.run.deleted", "deleted": True, "run_id": run["id"]}
    assert client.get(path).status_code == 404
    assert client.delete(path).status_code == 404
    with database.transaction(project_id) as session:
        assert jobs.get(session, run["job_id"]).status == "cancelled"


@pytest.mark.parametrize(
    ("source", "status", "param", "says"),
    [
        (completions({"type": "stored_completions"}), 400, "data_source.source.type", "stored_completions"),
        ({"type": "responses", "source": {"type": "responses"}}, 400, "data_source.source.type", "responses"),
        ({"type": "jsonl", "source": {"type": "file_id", "id": "file-no"}}, 404, "data_source.source.id", "file-no"),
        ({"type": "jsonl", "source": {"type": "file_content", "content": []}}, 400, "data_source.source.content", ""),
        (
            {
                "type": "jsonl",
                "source": {"type": "file_content", "content": [{"item": row("q")}, {"item": {"answer": "a"}}]},
            },
            400,
            "data_source.source.content.1.item",
            "'question' is a required property",
        ),
        (
            completions(
                ROWS, input_messages={"type": "template", "template": [{"role": "user", "content": "{{item.no}}"}]}
            ),
            400,
            "data_source.input_messages.template.0.content",
            "'no'",
        ),
        (
            completions(ROWS, input_messages={"type": "item_reference", "item_reference": "item.no"}),
            400,
            "data_source.input_messages.item_reference",
            "'no'",
        ),
        (
            completions(
                ROWS,
                input_messages={
                    "type": "template",
                    "template": [{"role": "user", "content": "{{sample.output_text}}"}],
                },
            ),
            400,
            "data_source.input_messages.template.0.content",
            "'sample'",
        ),
        (completions(ROWS, sampling_params={"tools": [{}]}), 400, "data_source.sampling_params.tools", "0 items"),
        (completions(ROWS, sampling_params={"temperature": 3}), 400, "data_source.sampling_params.temperature", "2"),
        (completions(ROWS, strange=1), 400, "data_source.strange", "not permitted"),
        ({"type": "completions", "source": ROWS}, 400, "data_source.model", "required"),
    ],
)
def test_a_wrong_run_names_the_field_and_leaves_nothing(
    client: TestClient, eval_id: str, source: dict[str, Any], status: int, param: str, says: str
) -> None:
    answer = client.post(f"/v1/evals/{eval_id}/runs", json={"data_source": source})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param
    assert says in answer.json()["error"]["message"]
    assert client.get(f"/v1/evals/{eval_id}/runs").json()["data"] == []


def test_a_schema_that_takes_for_ever_is_a_400_and_holds_no_transaction_open(
    client: TestClient, admin_database: Database
) -> None:
    steps = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)}
    schema = {"$ref": "#/$defs/a0", "$defs": steps | {"a40": {}}}
    config = {"type": "custom", "item_schema": schema, "include_sample_schema": True}
    made = client.post("/v1/evals", json=order(data_source_config=config))
    assert made.status_code == 200, made.text
    runs = f"/v1/evals/{made.json()['id']}/runs"
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.post, runs, json={"data_source": completions(ROWS)})
        open_transactions = []
        while not answer.done():
            time.sleep(0.05)
            with admin_database.system_transaction() as session:
                idle = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
                open_transactions.append(session.scalar(sa.text(idle)))
    assert (answer.result().status_code, answer.result().json()["error"]["code"]) == (400, "invalid_item")
    assert answer.result().json()["error"]["param"] == "data_source.source.content.0.item"
    assert sum(map(bool, open_transactions)) <= len(open_transactions) / 2
    assert len(open_transactions) > 5


def test_a_file_that_has_expired_is_no_data_source(
    client: TestClient, eval_id: str, database: Database, project_id: str
) -> None:
    order_of = {"data_source": {"type": "jsonl", "source": uploaded(client, {"item": row("q")})}}
    assert client.post(f"/v1/evals/{eval_id}/runs", json=order_of).status_code == 200
    with database.transaction(project_id) as session:
        session.execute(sa.text("UPDATE files SET expires_at = now()"))
    refused = client.post(f"/v1/evals/{eval_id}/runs", json=order_of)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "file_not_found")


def test_another_project_finds_none_of_it(
    client: TestClient, eval_id: str, settings: Settings, admin_database: Database
) -> None:
    run = client.post(f"/v1/evals/{eval_id}/runs", json={"data_source": completions(ROWS)}).json()
    stranger_project = make_project(admin_database)
    source = uploaded(client, {"item": row("q")})
    with client_of(settings, stranger_project) as stranger:
        base, runs = f"/v1/evals/{eval_id}", f"/v1/evals/{eval_id}/runs"
        asked = [
            stranger.get(base),
            stranger.post(base, json={"name": "mine"}),
            stranger.delete(base),
            stranger.get(runs),
            stranger.post(runs, json={"data_source": completions(ROWS)}),
            stranger.get(f"{runs}/{run['id']}"),
            stranger.delete(f"{runs}/{run['id']}"),
            stranger.post(f"{runs}/{run['id']}/cancel"),
            stranger.post(f"{runs}/{run['id']}"),
            stranger.get(f"{runs}/{run['id']}/output_items"),
            stranger.get(f"{runs}/{run['id']}/output_items/outputitem_x"),
        ]
        assert {answer.status_code for answer in asked} == {404}
        own = stranger.post("/v1/evals", json=order()).json()
        taken = {"data_source": {"type": "jsonl", "source": source}}
        assert stranger.post(f"/v1/evals/{own['id']}/runs", json=taken).status_code == 404
        mixed = stranger.get(f"/v1/evals/{own['id']}/runs/{run['id']}")
        assert mixed.status_code == 404
    assert client.get(runs + f"/{run['id']}").json()["status"] == "queued"


def test_a_run_is_found_under_its_own_eval_only(client: TestClient, eval_id: str) -> None:
    run = client.post(f"/v1/evals/{eval_id}/runs", json={"data_source": completions(ROWS)}).json()
    other = client.post("/v1/evals", json=order()).json()["id"]
    for path in ("", "/output_items"):
        assert client.get(f"/v1/evals/{other}/runs/{run['id']}{path}").status_code == 404


@pytest.mark.parametrize("what", ["eval", "run"])
def test_of_many_who_delete_at_once_one_does(client: TestClient, eval_id: str, what: str) -> None:
    run = client.post(f"/v1/evals/{eval_id}/runs", json={"data_source": completions(ROWS)}).json()
    path = f"/v1/evals/{eval_id}" + (f"/runs/{run['id']}" if what == "run" else "")
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: client.delete(path), range(6)))
    assert sorted(answer.status_code for answer in answers) == [200, *[404] * 5]


def test_an_eval_that_is_deleted_takes_no_new_run_with_it_unseen(client: TestClient) -> None:
    for _ in range(5):
        made = client.post("/v1/evals", json=order()).json()["id"]
        body = {"data_source": completions(ROWS)}
        with ThreadPoolExecutor(8) as pool:
            runs = [pool.submit(client.post, f"/v1/evals/{made}/runs", json=body) for _ in range(7)]
            deleted = pool.submit(client.delete, f"/v1/evals/{made}")
        assert deleted.result().status_code == 200
        assert {run.result().status_code for run in runs} <= {200, 404}
