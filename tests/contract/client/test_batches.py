"""It answers batches of requests, with per-line errors, cancel, and pages."""

import json
from typing import Any

import openai
import pytest

from tests.contract.client.conftest import CHAT, DONE, EMBEDDER, json_lines, until, upload

covers = pytest.mark.covers


def chat_line(custom_id: str, **more: Any) -> dict[str, Any]:
    body = {"model": CHAT, "messages": [{"role": "user", "content": f"Say {custom_id}."}], "max_tokens": 3} | more
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def start(
    client: openai.OpenAI, rows: list[dict[str, Any]], endpoint: Any = "/v1/chat/completions", **more: Any
) -> Any:
    return client.batches.create(
        input_file_id=upload(client, "batch.jsonl", json_lines(rows), "batch"),
        endpoint=endpoint,
        completion_window="24h",
        **more,
    )


def over(client: openai.OpenAI, batch_id: str) -> Any:
    return until(lambda: client.batches.retrieve(batch_id), lambda batch: batch.status in DONE)


def rows_of(client: openai.OpenAI, file_id: str) -> dict[str, Any]:
    """The output by custom id: its order means nothing."""
    found = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    assert len({row["custom_id"] for row in found}) == len(found)
    return {row["custom_id"]: row for row in found}


@covers("batches.create", "batches.retrieve")
def test_answers_every_line_and_names_the_lines_that_failed(client: openai.OpenAI) -> None:
    lines = [chat_line("one"), chat_line("two"), chat_line("wrong", temperature=9), chat_line("lost", model="no-such")]
    batch = start(client, lines, metadata={"suite": "contract"})
    assert (batch.object, batch.endpoint, batch.completion_window) == ("batch", "/v1/chat/completions", "24h")
    assert batch.status in {"validating", "in_progress", "finalizing", "completed"}
    done = over(client, batch.id)
    assert done.status == "completed", done.errors
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (4, 2, 2)
    assert done.metadata == {"suite": "contract"}
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at < done.expires_at
    answers, errors = rows_of(client, done.output_file_id), rows_of(client, done.error_file_id)
    assert set(answers) == {"one", "two"}
    for row in answers.values():
        assert row["error"] is None
        assert row["response"]["status_code"] == 200
        assert row["response"]["body"]["object"] == "chat.completion"
        assert row["response"]["request_id"]
    assert set(errors) == {"wrong", "lost"}
    assert errors["wrong"]["response"]["status_code"] == 400
    assert errors["wrong"]["response"]["body"]["error"]["param"] == "temperature"
    assert errors["lost"]["response"]["status_code"] == 404
    assert client.files.retrieve(done.output_file_id).purpose == "batch_output"


@covers("batches.create")
def test_embeds_in_a_batch(client: openai.OpenAI) -> None:
    row = {
        "custom_id": "vector",
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": EMBEDDER, "input": ["a", "b"]},
    }
    done = over(client, start(client, [row], "/v1/embeddings").id)
    assert done.status == "completed"
    assert len(rows_of(client, done.output_file_id)["vector"]["response"]["body"]["data"]) == 2


@covers("batches.create")
def test_fails_a_batch_whose_lines_make_no_sense_and_names_them(client: openai.OpenAI) -> None:
    done = over(client, start(client, [chat_line("same"), chat_line("same"), {"custom_id": "no body"}]).id)
    assert done.status == "failed"
    assert done.failed_at is not None
    assert done.errors.object == "list"
    assert {error.line for error in done.errors.data} >= {2, 3}
    assert all(error.code and error.message for error in done.errors.data)


@covers("batches.cancel")
def test_cancels_a_batch_and_keeps_what_was_answered(client: openai.OpenAI) -> None:
    batch = start(client, [chat_line(str(number), max_tokens=60) for number in range(400)])
    cancelled = client.batches.cancel(batch.id)
    assert cancelled.status in {"cancelling", "cancelled"}
    done = over(client, batch.id)
    assert done.status == "cancelled"
    assert done.cancelled_at is not None
    with pytest.raises(openai.BadRequestError):
        client.batches.cancel(batch.id)


@covers("batches.list")
def test_lists_batches_to_the_end(client: openai.OpenAI) -> None:
    made = [start(client, [chat_line(f"listed {number}")]).id for number in range(3)]
    listed = [batch.id for batch in client.batches.list(limit=2)]
    assert len(set(listed)) == len(listed)
    assert [batch_id for batch_id in listed if batch_id in made] == made[::-1]
    assert client.batches.list(limit=1).has_more is True
    for batch_id in made:
        over(client, batch_id)


@covers("batches.create")
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"endpoint": "/v1/responses"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": "file-unknown"}, "input_file_id"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_refuses_by_name_what_it_cannot_honour(client: openai.OpenAI, body: dict, param: str) -> None:
    file_id = upload(client, "batch.jsonl", json_lines([chat_line("x")]), "batch")
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as refused:
        client.batches.create(
            input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h", extra_body=body
        )
    assert (refused.value.param or "").startswith(param)


@covers("batches.retrieve")
def test_knows_nothing_of_an_unknown_batch(client: openai.OpenAI) -> None:
    for call in (client.batches.retrieve, client.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            call("batch_unknown")
