"""It runs evals: graders, runs, output items, cancel in both clients' forms."""

from typing import Any

import openai
import pytest

from tests.contract.client.conftest import CHAT, DONE, json_lines, until, upload

covers = pytest.mark.covers
SCHEMA = {
    "type": "object",
    "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
    "required": ["question", "answer"],
}
ROWS = [{"question": "What is the capital of France?", "answer": "Paris"}, {"question": "1+1?", "answer": "zebra"}]
GRADERS: list[dict[str, Any]] = [
    {
        "type": "string_check",
        "name": "has it",
        "input": "{{sample.output_text}}",
        "reference": "{{item.answer}}",
        "operation": "ilike",
    },
    {
        "type": "text_similarity",
        "name": "close to it",
        "input": "{{sample.output_text}}",
        "reference": "{{item.answer}}",
        "evaluation_metric": "rouge_l",
        "pass_threshold": 0.1,
    },
]


def make_eval(
    client: openai.OpenAI, name: str, criteria: list[dict[str, Any]] = GRADERS, *, sample: bool = True
) -> str:
    source: Any = {"type": "custom", "item_schema": SCHEMA, "include_sample_schema": sample}
    return client.evals.create(
        name=name,
        data_source_config=source,
        testing_criteria=criteria,
        metadata={"suite": "contract"},  # type: ignore[arg-type]
    ).id


def completions(rows: list[dict[str, str]], **more: Any) -> Any:
    return {
        "type": "completions",
        "model": CHAT,
        "source": {"type": "file_content", "content": [{"item": row} for row in rows]},
        "input_messages": {"type": "template", "template": [{"role": "user", "content": "{{item.question}}"}]},
        "sampling_params": {"temperature": 0, "max_completions_tokens": 12, "seed": 1},
    } | more


def over(client: openai.OpenAI, eval_id: str, run_id: str) -> Any:
    return until(lambda: client.evals.runs.retrieve(run_id, eval_id=eval_id), lambda run: run.status in DONE)


@pytest.fixture(scope="module")
def run(client: openai.OpenAI) -> Any:
    """A finished run of two items."""
    eval_id = make_eval(client, "capitals")
    started = client.evals.runs.create(eval_id, name="first", data_source=completions(ROWS), metadata={"n": "1"})
    done = over(client, eval_id, started.id)
    assert done.status == "completed", done.error
    return done


@covers("evals.create", "evals.retrieve")
def test_makes_an_eval_with_every_field(client: openai.OpenAI) -> None:
    found = client.evals.retrieve(make_eval(client, "made"))
    assert (found.object, found.name, found.metadata) == ("eval", "made", {"suite": "contract"})
    assert found.data_source_config.type == "custom"
    assert found.data_source_config.model_dump(by_alias=True)["schema"]["type"] == "object"
    assert [grader.type for grader in found.testing_criteria] == ["string_check", "text_similarity"]
    assert [grader.name for grader in found.testing_criteria] == ["has it", "close to it"]


@covers("evals.update")
def test_renames_an_eval(client: openai.OpenAI) -> None:
    eval_id = make_eval(client, "before")
    changed = client.evals.update(eval_id, name="after", metadata={"b": "2"})
    assert (changed.id, changed.name, changed.metadata) == (eval_id, "after", {"b": "2"})


@covers("evals.list")
def test_lists_evals_to_the_end_in_both_orders(client: openai.OpenAI) -> None:
    made = [make_eval(client, f"listed {number}") for number in range(3)]
    newest_first = [one.id for one in client.evals.list(limit=2, order="desc")]
    oldest_first = [one.id for one in client.evals.list(limit=2, order="asc")]
    assert newest_first == oldest_first[::-1]
    assert len(set(newest_first)) == len(newest_first)
    assert set(made) <= set(newest_first)
    assert set(made) <= {one.id for one in client.evals.list(order_by="updated_at", limit=100)}


@covers("evals.delete")
def test_deletes_an_eval(client: openai.OpenAI) -> None:
    eval_id = make_eval(client, "gone")
    deleted = client.evals.delete(eval_id)
    assert (deleted.eval_id, deleted.deleted) == (eval_id, True)
    with pytest.raises(openai.NotFoundError):
        client.evals.retrieve(eval_id)


@covers("evals.runs.create", "evals.runs.retrieve")
def test_counts_what_a_run_found(run: Any) -> None:
    assert (run.object, run.name, run.model, run.metadata) == ("eval.run", "first", CHAT, {"n": "1"})
    counts = run.result_counts
    assert (counts.total, counts.errored) == (2, 0)
    assert counts.passed + counts.failed == 2
    assert counts.failed >= 1  # nobody answers zebra
    # the service may add an id to a grader's name, as OpenAI's does
    assert [
        one.testing_criteria.startswith(grader["name"])
        for one, grader in zip(run.per_testing_criteria_results, GRADERS, strict=True)
    ] == [True, True]
    assert all(one.passed + one.failed == 2 for one in run.per_testing_criteria_results)
    [usage] = run.per_model_usage
    assert (usage.model_name, usage.invocation_count) == (CHAT, 2)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert run.data_source.type == "completions"


@covers("evals.runs.output_items.list", "evals.runs.output_items.retrieve")
def test_shows_every_item_of_a_run(client: openai.OpenAI, run: Any) -> None:
    where = {"eval_id": run.eval_id}
    items = list(client.evals.runs.output_items.list(run.id, **where, limit=1))
    assert sorted(item.datasource_item["answer"] for item in items) == ["Paris", "zebra"]
    for item in items:
        assert (item.object, item.eval_id, item.run_id) == ("eval.run.output_item", run.eval_id, run.id)
        assert isinstance(item.datasource_item_id, int)
        assert item.status in {"pass", "fail"}
        assert {result.name.split("-")[0] for result in item.results} >= {"has it", "close to it"}
        assert all(isinstance(result.passed, bool) and 0 <= result.score <= 1 for result in item.results)
        assert (item.status == "pass") == all(result.passed for result in item.results)
        assert item.sample.input[-1].content == item.datasource_item["question"]
        assert item.sample.output[0].content
        assert item.sample.model == CHAT
        assert item.sample.finish_reason in {"stop", "length"}
        assert item.sample.usage.total_tokens > 0
        assert (item.sample.seed, item.sample.temperature) == (1, 0)
        alone = client.evals.runs.output_items.retrieve(item.id, run_id=run.id, **where)
        assert alone.model_dump() == item.model_dump()
    failed = list(client.evals.runs.output_items.list(run.id, **where, status="fail"))
    assert {item.id for item in failed} == {item.id for item in items if item.status == "fail"}


@covers("evals.runs.create")
def test_grades_answers_that_a_file_brings(client: openai.OpenAI) -> None:
    rows = [{"item": ROWS[0], "sample": {"output_text": "Paris"}}, {"item": ROWS[0], "sample": {"output_text": "Rome"}}]
    file_id = upload(client, "answers.jsonl", json_lines(rows), "evals")
    eval_id = make_eval(client, "brought", GRADERS[:1])
    source: Any = {"type": "jsonl", "source": {"type": "file_id", "id": file_id}}
    done = over(client, eval_id, client.evals.runs.create(eval_id, data_source=source).id)
    assert (done.result_counts.passed, done.result_counts.failed) == (1, 1)


@covers("evals.runs.create")
def test_asks_a_model_to_grade(client: openai.OpenAI) -> None:
    judge: list[dict[str, Any]] = [
        {
            "type": "label_model",
            "name": "label",
            "model": CHAT,
            "labels": ["good", "bad"],
            "passing_labels": ["good"],
            "input": [{"role": "user", "content": "Is this good or bad: {{item.answer}}"}],
        },
        {
            "type": "score_model",
            "name": "score",
            "model": CHAT,
            "range": [0, 1],
            "pass_threshold": 0.5,
            "input": [{"role": "user", "content": "Give a number from 0 to 1 for {{item.answer}}"}],
        },
    ]
    eval_id = make_eval(client, "judged", judge, sample=False)
    source: Any = {"type": "jsonl", "source": {"type": "file_content", "content": [{"item": ROWS[0]}]}}
    done = over(client, eval_id, client.evals.runs.create(eval_id, data_source=source).id)
    assert done.status == "completed", done.error
    assert done.result_counts.total == 1
    assert len(done.per_testing_criteria_results) == 2


@covers("evals.create")
def test_refuses_a_grader_that_would_run_code(client: openai.OpenAI) -> None:
    python = {"type": "python", "name": "code", "source": "def grade(sample, item):\n    return 1.0\n"}
    with pytest.raises(openai.BadRequestError) as refused:
        make_eval(client, "code", [python])
    assert (refused.value.param or "").startswith("testing_criteria")
    assert "sandbox" in refused.value.message


@covers("evals.runs.list")
def test_lists_runs_to_the_end_and_by_status(client: openai.OpenAI, run: Any) -> None:
    client.evals.runs.create(run.eval_id, name="second", data_source=completions(ROWS[:1]))
    listed = [one.id for one in client.evals.runs.list(run.eval_id, limit=1)]
    assert run.id in listed
    assert len(set(listed)) == len(listed) >= 2
    assert [one.id for one in client.evals.runs.list(run.eval_id, order="desc")] == listed[::-1]
    assert run.id in [one.id for one in client.evals.runs.list(run.eval_id, status="completed")]
    assert run.id not in [one.id for one in client.evals.runs.list(run.eval_id, status="failed")]


@covers("evals.runs.cancel")
def test_cancels_a_run_in_either_clients_form(client: openai.OpenAI) -> None:
    eval_id = make_eval(client, "cancelled")
    started = client.evals.runs.create(eval_id, data_source=completions(ROWS * 200))
    assert client.evals.runs.cancel(started.id, eval_id=eval_id).id == started.id
    assert over(client, eval_id, started.id).status in {"canceled", "cancelled"}
    for form in ("", "/cancel"):  # the first is what 2.x sends, the second 3.x
        other = client.evals.runs.create(eval_id, data_source=completions(ROWS * 200))
        client.post(f"/evals/{eval_id}/runs/{other.id}{form}", cast_to=object)
        assert over(client, eval_id, other.id).status in {"canceled", "cancelled"}


@covers("evals.runs.delete")
def test_deletes_a_run(client: openai.OpenAI) -> None:
    eval_id = make_eval(client, "with a run to delete", GRADERS[:1])
    source: Any = {
        "type": "jsonl",
        "source": {"type": "file_content", "content": [{"item": ROWS[0], "sample": {"output_text": "Paris"}}]},
    }
    done = over(client, eval_id, client.evals.runs.create(eval_id, data_source=source).id)
    deleted = client.evals.runs.delete(done.id, eval_id=eval_id)
    assert (deleted.run_id, deleted.deleted) == (done.id, True)
    with pytest.raises(openai.NotFoundError):
        client.evals.runs.retrieve(done.id, eval_id=eval_id)


@covers("evals.create")
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"testing_criteria": []}, "testing_criteria"),
        ({"testing_criteria": [{"type": "string_check", "name": "x"}]}, "testing_criteria"),
        ({"testing_criteria": [GRADERS[1] | {"evaluation_metric": "vibes"}]}, "testing_criteria"),
        ({"data_source_config": {"type": "custom", "item_schema": {"type": 3}}}, "data_source_config"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_refuses_by_name_what_it_cannot_honour(client: openai.OpenAI, body: dict, param: str) -> None:
    source: Any = {"type": "custom", "item_schema": SCHEMA}
    with pytest.raises(openai.BadRequestError) as refused:
        client.evals.create(data_source_config=source, testing_criteria=GRADERS, extra_body=body)  # type: ignore[arg-type]
    assert (refused.value.param or "").startswith(param)


@covers("evals.retrieve")
def test_knows_nothing_of_unknown_ids(client: openai.OpenAI, run: Any) -> None:
    evals = client.evals
    for call in (
        lambda: evals.retrieve("eval_unknown"),
        lambda: evals.update("eval_unknown", name="x"),
        lambda: evals.delete("eval_unknown"),
        lambda: evals.runs.list("eval_unknown"),
        lambda: evals.runs.retrieve("evalrun_unknown", eval_id=run.eval_id),
        lambda: evals.runs.cancel("evalrun_unknown", eval_id=run.eval_id),
        lambda: evals.runs.delete("evalrun_unknown", eval_id=run.eval_id),
        lambda: evals.runs.output_items.list("evalrun_unknown", eval_id=run.eval_id),
        lambda: evals.runs.output_items.retrieve("item_unknown", eval_id=run.eval_id, run_id=run.id),
    ):
        with pytest.raises(openai.NotFoundError):
            call()
