"""It treats every request alike: request ids, error classes, retries, idempotency, other projects' things."""

import json
import secrets
import time
from typing import Any

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.contract.client.conftest import CHAT, EMBEDDER, TRAINABLE, sums, upload

covers = pytest.mark.covers


def new_key(client: openai.OpenAI, **body: Any) -> dict[str, Any]:
    """A key of the same project: its object, with `key`."""
    return client.post("/keys", body={"name": "of a test"} | body, cast_to=object)  # type: ignore[return-value]


@covers("files.list")
def test_names_every_answer_and_every_error(client: openai.OpenAI) -> None:
    raw = client.files.with_raw_response.list(limit=1)
    assert raw.headers["x-request-id"].startswith("req_")
    assert int(raw.headers["openai-processing-ms"]) >= 0
    assert raw.parse().object == "list"  # type: ignore[attr-defined]
    assert client.models.list()._request_id != client.models.list()._request_id
    with pytest.raises(openai.NotFoundError) as refused:
        client.files.retrieve("file-unknown")
    assert (refused.value.request_id or "").startswith("req_")


@covers("files.retrieve")
def test_writes_errors_as_the_client_reads_them(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.files.retrieve("file-unknown")
    error = refused.value
    assert isinstance(error.body, dict)
    assert set(error.body) == {"message", "type", "param", "code"}
    assert "file-unknown" in error.body["message"]
    assert (error.type, error.code) == ("not_found_error", "file_not_found")


@covers("models.list")
@pytest.mark.parametrize("key", ["sk-uplift-unknown", "x", "sk-uplift-" + "é" * 9])
def test_refuses_a_key_it_does_not_know(client: openai.OpenAI, key: str) -> None:
    try:
        with pytest.raises(openai.AuthenticationError) as refused:
            client.with_options(api_key=key).models.list()
    except UnicodeEncodeError:  # the client itself cannot send such a header
        return
    assert refused.value.status_code == 401


@covers("models.list")
def test_refuses_a_revoked_key_at_once(client: openai.OpenAI) -> None:
    made = new_key(client)
    holder = client.with_options(api_key=made["key"])
    assert holder.models.list().data
    client.delete(f"/keys/{made['id']}", cast_to=object)
    with pytest.raises(openai.AuthenticationError):
        holder.models.list()


@covers("files.create")
def test_refuses_a_key_without_the_scope_and_says_which(client: openai.OpenAI, training_file: str) -> None:
    reader = client.with_options(api_key=new_key(client, scopes=["read"])["key"])
    assert reader.files.retrieve(training_file).id == training_file
    with pytest.raises(openai.PermissionDeniedError) as refused:
        reader.files.create(file=("a.txt", b"a"), purpose="user_data")
    assert "write" in refused.value.message
    writer = client.with_options(api_key=new_key(client, scopes=["read", "write"])["key"])
    with pytest.raises(openai.PermissionDeniedError) as refused:
        writer.fine_tuning.jobs.create(model=TRAINABLE, training_file=training_file)
    assert "train" in refused.value.message


@covers("files.retrieve", "fine_tuning.jobs.retrieve", "vector_stores.retrieve")
def test_knows_nothing_of_another_projects_things(
    neighbour: openai.OpenAI, training_file: str, trained: FineTuningJob, store: str
) -> None:
    for call in (
        lambda: neighbour.files.retrieve(training_file),
        lambda: neighbour.files.content(training_file),
        lambda: neighbour.files.delete(training_file),
        lambda: neighbour.fine_tuning.jobs.retrieve(trained.id),
        lambda: neighbour.fine_tuning.jobs.list_events(trained.id),
        lambda: neighbour.fine_tuning.jobs.cancel(trained.id),
        lambda: neighbour.models.retrieve(trained.fine_tuned_model or ""),
        lambda: neighbour.vector_stores.retrieve(store),
        lambda: neighbour.vector_stores.search(store, query="lamp"),
        lambda: neighbour.chat.completions.create(
            model=trained.fine_tuned_model or "", messages=[{"role": "user", "content": "1?"}]
        ),
    ):
        with pytest.raises(openai.NotFoundError):
            call()
    assert trained.id not in [job.id for job in neighbour.fine_tuning.jobs.list()]
    assert store not in [found.id for found in neighbour.vector_stores.list()]


@covers("chat.completions.create")
def test_tells_the_limits_that_apply_and_refuses_beyond_them(client: openai.OpenAI, told: dict[str, str]) -> None:
    limited = client.with_options(api_key=told["CONTRACT_LIMITED_API_KEY"], max_retries=0)
    raw = limited.embeddings.with_raw_response.create(model=EMBEDDER, input="word")
    assert raw.headers["x-ratelimit-limit-requests"] == "3"
    assert 0 <= int(raw.headers["x-ratelimit-remaining-requests"]) < 3
    assert raw.headers["x-ratelimit-reset-requests"]
    assert int(raw.headers["x-ratelimit-limit-tokens"]) >= int(raw.headers["x-ratelimit-remaining-tokens"])
    with pytest.raises(openai.RateLimitError) as refused:
        # a minute may end in between: eight requests are then too many for one of its two minutes
        [limited.embeddings.create(model=EMBEDDER, input="word") for _ in range(8)]
    assert 0 < float(refused.value.response.headers["retry-after"]) <= 60
    assert refused.value.code == "rate_limit_exceeded"
    assert refused.value.type == "rate_limit_error"


@covers("fine_tuning.jobs.create")
def test_answers_the_same_request_with_the_same_key_once(client: openai.OpenAI, training_file: str) -> None:
    header = {"Idempotency-Key": f"contract-{secrets.token_hex(8)}"}
    body: dict[str, Any] = {"model": TRAINABLE, "training_file": training_file, "metadata": header}
    first = client.fine_tuning.jobs.create(**body, extra_headers=header)
    again = client.fine_tuning.jobs.create(**body, extra_headers=header)
    assert again.id == first.id
    assert [job.id for job in client.fine_tuning.jobs.list(metadata=header)] == [first.id]
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.fine_tuning.jobs.create(**body | {"seed": 5}, extra_headers=header)
    assert refused.value.code


@covers("vector_stores.create")
def test_gives_a_retry_of_the_client_the_first_answer(client: openai.OpenAI) -> None:
    body = {"name": f"retried {secrets.token_hex(4)}"}
    first = client.vector_stores.create(**body)
    retried = client.post(
        "/vector_stores", body=body, cast_to=object, options={"headers": {"x-stainless-retry-count": "1"}}
    )
    assert retried["id"] == first.id  # type: ignore[index]
    assert client.vector_stores.create(**body).id != first.id  # no retry, so another store


@covers("fine_tuning.jobs.cancel")
def test_does_not_make_the_client_retry_what_cannot_succeed(client: openai.OpenAI, trained: FineTuningJob) -> None:
    began = time.monotonic()
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.cancel(trained.id)
    assert time.monotonic() - began < 5


@covers("files.list")
@pytest.mark.parametrize("limit", [0, -1, 10**9])
def test_refuses_a_limit_out_of_range(client: openai.OpenAI, limit: int) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.list(limit=limit)
    assert refused.value.param == "limit"


@covers("chat.completions.create")
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", {"model": CHAT, "messages": [{"role": "user", "content": "a\0b"}]}),
        ("/vector_stores", {"name": "a\0b"}),
        ("/vector_stores", {"metadata": {"a": "\0"}}),
    ],
)
def test_refuses_a_nul_character(client: openai.OpenAI, path: str, body: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.post(path, body=body, cast_to=object)
    assert "NUL" in refused.value.message


@covers("vector_stores.create")
def test_ignores_the_beta_header_and_unknown_headers(client: openai.OpenAI) -> None:
    made = client.vector_stores.create(
        name="beta", extra_headers={"OpenAI-Organization": "org-x", "OpenAI-Project": "proj-x", "X-Something": "y"}
    )
    assert made.id.startswith("vs_")


@covers("files.retrieve")
def test_knows_nothing_of_a_path_outside_the_contract(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.get("/no/such/path", cast_to=object)
    assert isinstance(refused.value.body, dict)
    with pytest.raises(openai.APIStatusError) as not_allowed:
        client.put("/files", cast_to=object)
    assert not_allowed.value.status_code == 405
    assert not_allowed.value.response.headers["allow"] == "GET, POST"


@covers("beta.chat.completions.create")
def test_answers_a_chat_under_its_older_name_too(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": CHAT, "messages": [{"role": "user", "content": "Hi"}], "temperature": 0}
    plain, beta = (where.completions.create(**asked, max_tokens=3) for where in (client.chat, client.beta.chat))
    assert beta.choices == plain.choices


@covers("files.content")
def test_streams_a_download(client: openai.OpenAI) -> None:
    content = sums(6000, 200)
    file_id = upload(client, "large.jsonl", content)
    with client.files.with_streaming_response.content(file_id) as response:
        assert b"".join(response.iter_bytes(1000)) == content
        assert response.headers["x-request-id"]


@covers("chat.completions.create")
def test_ends_a_raw_stream_with_done(client: openai.OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(
        model=CHAT, messages=[{"role": "user", "content": "Hi"}], max_tokens=3, stream=True
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all(json.loads(line.removeprefix("data: "))["id"] for line in lines[:-1])
