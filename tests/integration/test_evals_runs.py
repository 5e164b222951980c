"""Runs of evals through the real job machinery; the models behind them are stand-ins that say what they are told to."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from shared.database import Database
from shared.settings import Settings
from tests.factories.evals import (
    EXACT,
    LABELLED,
    SCORED,
    all_items,
    client_of,
    completions,
    content,
    make_eval,
    row,
    show,
    similar,
    start,
    uploaded,
)
from tests.factories.quotas import grant, used_tokens
from tests.fakes.processes import Process, dispatcher, killed_at_the_end, wait_until, worker

pytestmark = pytest.mark.stack
OVER = {"completed", "failed", "canceled"}


@pytest.fixture(scope="module")
def processes(
    stack_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Process, ...]]:
    folder = tmp_path_factory.mktemp("processes")
    started = (
        dispatcher(stack_environment, folder),
        worker(stack_environment, folder, app="services.evaluation.worker", slots=4),
        worker(stack_environment, folder, app="tests.fakes.eval_models", slots=40),
    )
    with killed_at_the_end(*started):
        yield started


@pytest.fixture
def client(settings: Settings, project_id: str, processes: tuple[Process, ...]) -> Iterator[TestClient]:
    with client_of(settings, project_id) as connected:
        yield connected


def run_to_the_end(client: TestClient, eval_id: str, data_source: dict[str, Any]) -> dict[str, Any]:
    run_id = start(client, eval_id, data_source)
    wait_until(lambda: show(client, eval_id, run_id)["status"] in OVER, seconds=90)
    return show(client, eval_id, run_id)


def test_asks_about_every_row_and_grades_what_it_hears(client: TestClient, settings: Settings, project_id: str) -> None:
    eval_id = make_eval(client, EXACT, similar("rouge_1"))
    rows = [row(f"question {number}", "" if number % 4 else "something else") for number in range(40)]
    run = run_to_the_end(client, eval_id, completions(content(*rows), sampling_params={"temperature": 0, "seed": 3}))
    assert run["status"] == "completed", run
    assert run["result_counts"] == {"total": 40, "passed": 30, "failed": 10, "errored": 0}
    for result in run["per_testing_criteria_results"]:
        assert (result["passed"], result["failed"], result["errored"]) == (30, 10, 0)
        assert result["pass_rate"]["low"] < result["pass_rate"]["mean"] == 0.75 < result["pass_rate"]["high"]
    (usage,) = run["per_model_usage"]
    assert usage == {
        "model_name": "echo",
        "invocation_count": 40,
        "prompt_tokens": 400,
        "completion_tokens": 120,
        "total_tokens": 520,
        "cached_tokens": 0,
    }
    assert run["error"] is None
    items = all_items(client, eval_id, run["id"])
    assert [item["datasource_item_id"] for item in items] == list(range(40))
    assert [item["datasource_item"] for item in items] == rows
    first, second = items[:2]
    assert (first["status"], second["status"]) == ("fail", "pass")
    assert second["object"] == "eval.run.output_item"
    assert [(one["name"], one["type"], one["passed"], one["score"]) for one in second["results"]] == [
        ("exact", "string-check-grader", True, 1.0),
        ("rouge_1", "text-similarity-grader", True, 1.0),
    ]
    sample = second["sample"]
    assert sample["input"] == [{"role": "user", "content": "question 1"}]
    assert sample["output"] == [{"role": "assistant", "content": "question 1"}]
    assert (sample["model"], sample["finish_reason"], sample["error"]) == ("echo", "stop", None)
    assert (sample["temperature"], sample["seed"], sample["usage"]["total_tokens"]) == (0, 3, 13)
    assert len(asked(settings, project_id)) == 40


def test_items_are_filtered_by_status_and_shown_one_by_one(client: TestClient) -> None:
    eval_id = make_eval(client)
    rows = [row(f"q{number}", "" if number % 2 else "else") for number in range(20)]
    run = run_to_the_end(client, eval_id, completions(content(*rows)))
    failed = all_items(client, eval_id, run["id"], status="fail")
    passed = all_items(client, eval_id, run["id"], status="pass", order="desc")
    assert [item["datasource_item_id"] for item in failed] == list(range(0, 20, 2))
    assert [item["datasource_item_id"] for item in passed] == list(range(19, 0, -2))
    path = f"/v1/evals/{eval_id}/runs/{run['id']}/output_items"
    assert client.get(f"{path}/{failed[3]['id']}").json() == failed[3]
    assert client.get(f"{path}/outputitem_none").json()["error"]["code"] == "output_item_not_found"


def test_models_judge_and_vectors_compare(client: TestClient) -> None:
    eval_id = make_eval(client, SCORED, LABELLED, similar("cosine"))
    rows = [row("7 is good 7"), row("it is good"), row("it is bad"), row("nothing", "far away from it")]
    run = run_to_the_end(client, eval_id, completions(content(*rows)))
    assert run["status"] == "completed", run
    sevens, good, bad, far = all_items(client, eval_id, run["id"])
    score, label, cosine = sevens["results"]
    assert (score["passed"], score["score"], score["error"]) == (True, 7.0, None)
    assert score["sample"]["output"] == [{"role": "assistant", "content": "7"}]
    assert "from 0 to 10" in score["sample"]["input"][0]["content"]
    assert (label["passed"], label["score"], label["error"]["code"]) == (False, None, "unreadable_judgement")
    assert label["sample"]["output"][0]["content"] == '"7"'
    assert cosine["score"] == pytest.approx(1, abs=1e-6)
    assert sevens["status"] == "error"
    assert (good["results"][1]["passed"], good["results"][1]["sample"]["label"]) == (True, "good")
    assert (bad["results"][1]["passed"], bad["results"][1]["score"], bad["results"][1]["error"]) == (False, 0.0, None)
    assert far["results"][2]["passed"] is False
    assert run["result_counts"] == {"total": 4, "passed": 0, "failed": 0, "errored": 4}
    by_name = {one["testing_criteria"]: one for one in run["per_testing_criteria_results"]}
    assert (by_name["labelled"]["passed"], by_name["labelled"]["failed"], by_name["labelled"]["errored"]) == (1, 1, 2)
    assert by_name["labelled"]["pass_rate"]["mean"] == 0.5
    assert {one["model_name"]: one["invocation_count"] for one in run["per_model_usage"]} == {
        "echo": 4,
        "score": 4,
        "label": 4,
        "all-minilm-l6-v2": 4,
    }


def test_rows_that_bring_their_answers_are_graded_and_nobody_is_asked(
    client: TestClient, settings: Settings, project_id: str
) -> None:
    about = {"type": "string_check", "name": "about", "operation": "eq", "reference": "x"}
    eval_id = make_eval(client, EXACT, about | {"input": "{{sample.output_json.kind}}"})
    lines = [
        {"item": row("q", '{"kind": "x"}'), "sample": {"output_text": '{"kind": "x"}'}},
        {"item": row("q", "plain"), "sample": {"output_text": "plain", "output_json": {"kind": "x"}}},
        {"item": row("q", "plain"), "sample": {"output_text": "plain"}},
        {"item": row("q")},
    ]
    run = run_to_the_end(client, eval_id, {"type": "jsonl", "source": uploaded(client, *lines)})
    items = all_items(client, eval_id, run["id"])
    assert [item["status"] for item in items] == ["pass", "pass", "error", "error"]
    assert items[0]["sample"]["output"] == [{"role": "assistant", "content": '{"kind": "x"}'}]
    assert "output_json" in items[2]["results"][1]["error"]["message"]
    assert items[3]["results"][0]["error"]["code"] == "missing_variable"
    assert run["model"] is None
    assert asked(settings, project_id) == []


def test_messages_can_come_with_the_row(client: TestClient) -> None:
    eval_id = make_eval(client)
    talk = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "hello {{item.question}}"}]},
    ]
    source = content(row("q", "hello {{item.question}}", messages=talk), row("q"), row("q", messages=[{"role": "x"}]))
    refer = {"type": "item_reference", "item_reference": "item.messages"}
    run = run_to_the_end(client, eval_id, completions(source, input_messages=refer))
    good, none, broken = all_items(client, eval_id, run["id"])
    assert good["status"] == "pass"  # a row's text is no template
    assert good["sample"]["input"][0] == {"role": "system", "content": "Be brief."}
    for item in (none, broken):
        assert (item["status"], item["results"], item["sample"]["error"]["code"]) == ("error", [], "missing_variable")
    assert run["result_counts"] == {"total": 3, "passed": 1, "failed": 0, "errored": 2}


def test_the_shape_of_the_responses_api_is_taken_too(client: TestClient) -> None:
    eval_id = make_eval(client)
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
    asking = completions(content(row("q")), sampling_params={"text": {"format": form}}) | {"type": "responses"}
    run = run_to_the_end(client, eval_id, asking)
    assert (run["status"], run["result_counts"]["passed"]) == ("completed", 1)
    assert run["data_source"] == asking


def test_a_request_that_fails_costs_its_own_row_only(client: TestClient) -> None:
    eval_id = make_eval(client, EXACT, similar("cosine"))
    rows = [row("fine"), row("unanswerable"), row("long " * 300)]
    run = run_to_the_end(client, eval_id, completions(content(*rows)))
    fine, unanswerable, long = all_items(client, eval_id, run["id"])
    assert (run["status"], fine["status"]) == ("completed", "pass")
    assert (unanswerable["status"], unanswerable["results"]) == ("error", [])
    assert unanswerable["sample"]["error"] == {"code": "invalid_input", "message": "The prompt is too long."}
    assert long["status"] == "error"
    assert long["results"][0]["error"] is None
    assert "tokens" in long["results"][1]["error"]["message"]


@pytest.mark.parametrize("judge", ["answers", "grades"])
def test_a_model_that_is_not_here_fails_the_run_by_its_name(client: TestClient, judge: str) -> None:
    eval_id = make_eval(client, SCORED | {"model": "missing"} if judge == "grades" else EXACT)
    run = run_to_the_end(client, eval_id, completions(content(row("5")), "missing" if judge == "answers" else "echo"))
    assert run["status"] == "failed"
    assert run["error"]["code"] == "model_not_found"
    assert "missing" in run["error"]["message"]
    assert set(run["error"]) == {"code", "message"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"item": {"answer": "a"}}, "line 2: item: 'question' is a required property"),
        ({"item": {"question": 5, "answer": "a"}}, "line 2: item.question"),
        ({"item": row("q"), "extra": 1}, "line 2: 'extra'"),
        ({"question": "q"}, 'under "item"'),
        ('{"item": ', "line 2"),
        ('{"item": {"question": "\\ud800", "answer": ""}}', "line 2"),
        ('{"item": {"question": "\\u0000", "answer": ""}}', "NUL"),
        ('{"item": {"question": "", "answer": "", "n": 1e999}}', "line 2"),
    ],
)
def test_a_wrong_line_fails_the_run_and_is_named(client: TestClient, line: Any, says: str) -> None:
    eval_id = make_eval(client)
    run = run_to_the_end(client, eval_id, completions(uploaded(client, {"item": row("q")}, line)))
    assert (run["status"], run["error"]["code"]) == ("failed", "invalid_item")
    assert says in run["error"]["message"]
    assert all_items(client, eval_id, run["id"]) == []


def test_a_cancelled_run_stops_and_keeps_what_it_has(client: TestClient) -> None:
    eval_id = make_eval(client)
    run_id = start_gated(client, eval_id)
    client.post(f"/v1/evals/{eval_id}/runs/{run_id}/cancel")
    wait_until(lambda: show(client, eval_id, run_id)["status"] == "canceled", seconds=30)
    counted = show(client, eval_id, run_id)["result_counts"]
    assert 0 < counted["total"] <= 64
    assert len(all_items(client, eval_id, run_id)) == counted["total"]


def test_a_run_deleted_at_work_leaves_nothing_and_breaks_nothing(client: TestClient) -> None:
    eval_id = make_eval(client)
    run_id = start_gated(client, eval_id)
    assert client.delete(f"/v1/evals/{eval_id}/runs/{run_id}").json()["deleted"] is True
    assert client.get(f"/v1/evals/{eval_id}/runs/{run_id}").status_code == 404
    assert run_to_the_end(client, eval_id, completions(content(row("q"))))["status"] == "completed"


def test_counts_grow_while_the_run_is_at_work(client: TestClient, settings: Settings, project_id: str) -> None:
    eval_id = make_eval(client, EXACT, SCORED | {"input": [{"role": "user", "content": "9"}]})
    run_id = start_gated(client, eval_id)
    halfway = show(client, eval_id, run_id)
    assert halfway["status"] == "in_progress"
    assert 0 < halfway["result_counts"]["total"] <= 64
    (settings.home / f"gate-{project_id}").touch()
    wait_until(lambda: show(client, eval_id, run_id)["status"] in OVER, seconds=60)
    run = show(client, eval_id, run_id)
    assert run["result_counts"] == {"total": 74, "passed": 74, "failed": 0, "errored": 0}
    assert run["pass_rate"]["low"] < run["pass_rate"]["mean"] == 1


def test_a_run_ends_by_name_once_the_months_tokens_are_used(
    client: TestClient, database: Database, admin_database: Database, project_id: str
) -> None:
    grant(admin_database, project_id, tokens_per_month=100)
    judged, free = make_eval(client, SCORED), make_eval(client)
    run_id = start_gated(client, free)
    wait_until(lambda: show(client, free, run_id)["status"] in OVER, seconds=30)
    run = show(client, free, run_id)
    assert (run["status"], run["error"]["code"]) == ("failed", "insufficient_quota")
    assert 0 < run["result_counts"]["total"] <= 64
    assert sum(one["total_tokens"] for one in run["per_model_usage"]) == used_tokens(database, project_id)
    own = content({"item": row("5"), "sample": {"output_text": "5"}})
    for eval_id, source in ((free, completions(content(row("q")))), (judged, {"type": "jsonl", "source": own})):
        refused = client.post(f"/v1/evals/{eval_id}/runs", json={"data_source": source})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert run_to_the_end(client, free, {"type": "jsonl", "source": own})["status"] == "completed"


def test_answers_grades_and_vectors_count_as_the_projects_tokens(
    client: TestClient, database: Database, project_id: str
) -> None:
    eval_id = make_eval(client, EXACT, SCORED, LABELLED, similar("cosine"))
    run_to_the_end(client, eval_id, completions(content(row("7"), row("good"))))
    assert used_tokens(database, project_id) == 2 * (13 + 13 + 13 + 4)


def start_gated(client: TestClient, eval_id: str) -> str:
    """A run that has graded some rows and waits for ten others."""
    rows = [row(f"q{number}") for number in range(64)] + [row(f"gated {number}") for number in range(10)]
    run_id = start(client, eval_id, completions(content(*rows)))
    wait_until(lambda: show(client, eval_id, run_id)["result_counts"]["total"] > 0, seconds=60)
    return run_id


def asked(settings: Settings, project_id: str) -> list[str]:
    """The chat requests of a project."""
    path = settings.home / "asked"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if line.startswith(f"{project_id}\t")]
