"""An eval on the real models, driven by the unmodified client of OpenAI: create, run, poll, read every item."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.models, pytest.mark.timeout(600)]
MODEL = "smollm2-135m-instruct"
CAPITALS = {"France": "Paris", "Italy": "Rome", "Germany": "Berlin", "Japan": "Tokyo", "Spain": "Zebra"}
BOTH = {"input": "{{sample.output_text}}", "reference": "{{item.capital}}"}
JUDGED = [{"role": "user", "content": "Is this text about {{item.country}}? {{sample.output_text}}"}]


@pytest.fixture(scope="module")
def client(environment: dict[str, str]) -> Iterator[openai.OpenAI]:
    lines = (Path(environment["UPLIFT_HOME"]) / "credentials.env").read_text().splitlines()
    told = dict(line.split("=", 1) for line in lines)
    with openai.OpenAI(base_url=told["OPENAI_BASE_URL"], api_key=told["OPENAI_API_KEY"]) as opened:
        yield opened


@pytest.fixture(scope="module")
def run(client: openai.OpenAI) -> Any:
    """A run that is over."""
    names = {"type": "string"}
    made = client.evals.create(
        name="capitals",
        data_source_config={
            "type": "custom",
            "item_schema": {
                "type": "object",
                "properties": {"country": names, "capital": names},
                "required": ["country", "capital"],
            },
            "include_sample_schema": True,
        },
        testing_criteria=[
            {"type": "string_check", "name": "named", "operation": "ilike", **BOTH},
            {
                "type": "text_similarity",
                "name": "near",
                "evaluation_metric": "cosine",
                "pass_threshold": 0.2,
                **BOTH,
            },
            {"type": "text_similarity", "name": "shared", "evaluation_metric": "meteor", "pass_threshold": 0, **BOTH},
            {
                "type": "label_model",
                "name": "judged",
                "model": MODEL,
                "input": JUDGED,
                "labels": ["yes", "no"],
                "passing_labels": ["yes"],
            },
        ],
    )
    content = [{"item": {"country": country, "capital": capital}} for country, capital in CAPITALS.items()]
    started = client.evals.runs.create(
        made.id,
        name="the base model",
        data_source={
            "type": "completions",
            "model": MODEL,
            "source": {"type": "file_content", "content": content},
            "input_messages": {
                "type": "template",
                "template": [{"role": "user", "content": "What is the capital of {{item.country}}?"}],
            },
            "sampling_params": {"temperature": 0, "max_completion_tokens": 16},
        },
    )
    deadline = time.monotonic() + 300
    while (found := client.evals.runs.retrieve(started.id, eval_id=made.id)).status not in {"completed", "failed"}:
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    return found


def test_a_run_is_completed_and_every_row_has_its_verdicts(client: openai.OpenAI, run: Any) -> None:
    assert run.status == "completed", run.error
    counts = run.result_counts
    assert counts.total == len(CAPITALS) == counts.passed + counts.failed + counts.errored
    named, near, shared, judged = run.per_testing_criteria_results
    assert named.testing_criteria == "named"
    # it knows at least one of the capitals, and does not answer Zebra
    assert 1 <= named.passed <= 4
    assert named.failed == len(CAPITALS) - named.passed
    assert named.pass_rate["low"] < named.pass_rate["mean"] == named.passed / len(CAPITALS) < named.pass_rate["high"]
    assert near.passed + near.failed == shared.passed == len(CAPITALS)
    assert judged.passed + judged.failed + judged.errored == len(CAPITALS)
    asked = {usage.run_model_name: usage.invocation_count for usage in run.per_model_usage}
    assert asked == {MODEL: 2 * len(CAPITALS), "all-minilm-l6-v2": len(CAPITALS)}


def test_items_are_listed_to_the_end(client: openai.OpenAI, run: Any) -> None:
    items = list(client.evals.runs.output_items.list(run.id, eval_id=run.eval_id, limit=2))
    assert [item.datasource_item["country"] for item in items] == list(CAPITALS)
    for item in items:
        answer = item.sample.output[0].content
        named, near, _, judged = item.results
        assert named.passed == (item.datasource_item["capital"].lower() in answer.lower())
        assert 0 <= near.score <= 1
        assert judged.sample["input"][-1]["content"].endswith(answer)
        assert item.sample.usage.total_tokens == item.sample.usage.prompt_tokens + item.sample.usage.completion_tokens
        alone = client.evals.runs.output_items.retrieve(item.id, eval_id=run.eval_id, run_id=run.id)
        assert alone.model_dump() == item.model_dump()
    failed = client.evals.runs.output_items.list(run.id, eval_id=run.eval_id, status="fail")
    assert [item.id for item in failed] == [item.id for item in items if item.status == "fail"]
