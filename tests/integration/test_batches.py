"""Batches through the doors, the queues and real workers, driven by the unmodified OpenAI client."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from openai.types import Batch

from services.data.routes import router as files
from services.evaluation.batches.routes import router as batches
from services.evaluation.batches.tables import BatchAnswer
from shared.database import Database
from shared.settings import Settings
from shared.web import Caller, create_app
from shared.wiring import Wiring
from tests.conftest import make_project
from tests.factories.quotas import grant
from tests.fakes import processes
from tests.fakes.access import always
from tests.fakes.processes import wait_until

pytestmark = pytest.mark.stack
CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
OVER = {"completed", "failed", "expired", "cancelled"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("batches"))


def make_home(folder: Path) -> Path:
    """A home with one base model, which no test loads."""
    (folder / "models" / "tiny").mkdir(parents=True)
    (folder / "models" / "tiny" / "config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def parts(settings: Settings, home: Path) -> Iterator[Wiring]:
    wired = Wiring.from_settings(settings.model_copy(update={"home": home}))
    yield wired
    wired.close()


@pytest.fixture(scope="module")
def workers(stack_environment: dict[str, str], home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    environment, folder = stack_environment | {"UPLIFT_HOME": str(home)}, tmp_path_factory.mktemp("workers")
    answering = processes.worker(environment, folder, app="tests.fakes.answering_without_models", slots=40)
    evaluating = processes.worker(environment, folder, app="services.evaluation.worker", slots=4)
    with processes.killed_at_the_end(answering, evaluating, processes.dispatcher(environment, folder)):
        yield


@pytest.fixture
def http(parts: Wiring, project_id: str) -> TestClient:
    return door(parts, project_id)


@pytest.fixture
def client(http: TestClient) -> openai.OpenAI:
    return openai.OpenAI(api_key="any", base_url="http://testserver/v1", http_client=http, max_retries=0)


def door(parts: Wiring, project_id: str) -> TestClient:
    who = Caller(project_id, "tests", "org_tests", "key_tests", ("admin",), "req_tests")
    app = create_app("tests", [files, batches], wiring_factory=lambda: parts, access=always(who))
    app.state.wiring = parts  # entered without its lifespan, so nothing is closed
    return TestClient(app)


def ask(custom_id: str, question: str, **body: Any) -> dict[str, Any]:
    body = {"model": "tiny", "messages": [{"role": "user", "content": question}]} | body
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}


def embed(custom_id: str, text: Any, **body: Any) -> dict[str, Any]:
    body = {"model": "words", "input": text} | body
    return {"custom_id": custom_id, "method": "POST", "url": EMBEDDINGS, "body": body}


def upload(client: openai.OpenAI, lines: list[dict[str, Any]]) -> str:
    content = "\n".join(json.dumps(line) for line in lines).encode()
    return client.files.create(file=("requests.jsonl", content), purpose="batch").id


def order(client: openai.OpenAI, lines: list[dict[str, Any]], **more: Any) -> Batch:
    order = {"endpoint": lines[0]["url"] if lines else CHAT, "completion_window": "24h"} | more
    return client.batches.create(input_file_id=upload(client, lines), **order)


def finished(client: openai.OpenAI, batch_id: str) -> Batch:
    wait_until(lambda: client.batches.retrieve(batch_id).status in OVER, seconds=90)
    return client.batches.retrieve(batch_id)


def read(client: openai.OpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    """The lines of a result file by custom_id."""
    assert file_id is not None
    lines = [json.loads(line) for line in client.files.content(file_id).content.splitlines()]
    found = {line["custom_id"]: line for line in lines}
    assert len(found) == len(lines), "a custom_id came twice"
    return found


@pytest.mark.usefixtures("workers")
def test_answers_every_line_with_a_whole_completion(client: openai.OpenAI) -> None:
    lines = [ask(f"q{n}", f"What is {n}?", temperature=0, max_completion_tokens=9, seed=n) for n in range(70)]
    ordered = order(client, lines, metadata={"run": "seven"})
    assert (ordered.object, ordered.status, ordered.completion_window) == ("batch", "validating", "24h")
    assert ordered.expires_at == ordered.created_at + 24 * 3600
    done = finished(client, ordered.id)
    assert (done.status, done.errors, done.error_file_id) == ("completed", None, None)
    assert (done.model, done.metadata) == ("tiny", {"run": "seven"})
    assert done.request_counts is not None
    assert done.request_counts.to_dict() == {"total": 70, "completed": 70, "failed": 0}
    stamps = [done.created_at, done.in_progress_at, done.finalizing_at, done.completed_at]
    assert None not in stamps
    assert stamps == sorted(stamp for stamp in stamps if stamp is not None)
    assert (done.failed_at, done.expired_at, done.cancelled_at) == (None, None, None)
    answers = read(client, done.output_file_id)
    assert set(answers) == {line["custom_id"] for line in lines}
    for n in range(70):
        answer = answers[f"q{n}"]
        assert answer["error"] is None
        assert answer["response"]["status_code"] == 200
        assert answer["response"]["request_id"].startswith("req_")
        body = openai.types.chat.ChatCompletion.model_validate(answer["response"]["body"])
        assert (body.object, body.model, body.choices[0].finish_reason) == ("chat.completion", "tiny", "stop")
        said = json.loads(body.choices[0].message.content or "")
        assert said["messages"][-1]["content"] == f"What is {n}?"
        assert said["interactive"] is False
    assert len({answer["id"] for answer in answers.values()}) == 70
    usages = [answer["response"]["body"]["usage"] for answer in answers.values()]
    assert done.usage is not None
    assert done.usage.input_tokens == sum(usage["prompt_tokens"] for usage in usages) > 0
    assert done.usage.output_tokens == sum(usage["completion_tokens"] for usage in usages) > 0
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens


@pytest.mark.usefixtures("workers")
def test_gives_each_line_its_own_error(client: openai.OpenAI) -> None:
    lines = [
        ask("good", "Hi"),
        ask("no such model", "Hi", model="nobody"),
        ask("too hot", "Hi", temperature=9),
        ask("streams", "Hi", stream=True),
        ask("unknown option", "Hi", colour="blue"),
        ask("no question", "Hi", messages=[]),
    ]
    done = finished(client, order(client, lines).id)
    assert done.status == "completed"
    assert done.request_counts is not None
    assert done.request_counts.to_dict() == {"total": 6, "completed": 1, "failed": 5}
    assert set(read(client, done.output_file_id)) == {"good"}
    found = read(client, done.error_file_id)
    refusals = {name: line["response"] for name, line in found.items()}
    params = {name: refusal["body"]["error"]["param"] for name, refusal in refusals.items()}
    assert {name: refusal["status_code"] for name, refusal in refusals.items()} == {
        "no such model": 404,
        "too hot": 400,
        "streams": 400,
        "unknown option": 400,
        "no question": 400,
    }
    assert params["too hot"] == "temperature"
    assert params["streams"] == "stream"
    assert params["unknown option"] == "colour"
    assert params["no question"] == "messages"
    written = client.files.retrieve(str(done.error_file_id))
    assert (written.purpose, written.filename, written.status) == (
        "batch_output",
        f"{done.id}_error.jsonl",
        "processed",
    )


@pytest.mark.usefixtures("workers")
def test_embeds_as_the_route_would(client: openai.OpenAI) -> None:
    lines = [
        embed("plain", "some words"),
        embed("short", ["some words", "others"], dimensions=8),
        embed("packed", "some words", encoding_format="base64"),
        embed("tokens", [1, 2]),
        embed("unknown", "x", model="nobody"),
    ]
    done = finished(client, order(client, lines).id)
    answers, errors = read(client, done.output_file_id), read(client, done.error_file_id)
    bodies = {name: answer["response"]["body"] for name, answer in answers.items()}
    plain = bodies["plain"]["data"][0]["embedding"]
    assert np.isclose(np.linalg.norm(plain), 1, atol=1e-5)
    assert [len(one["embedding"]) for one in bodies["short"]["data"]] == [8, 8]
    unpacked = np.frombuffer(base64.b64decode(bodies["packed"]["data"][0]["embedding"]), "<f4")
    assert np.allclose(unpacked, plain)
    assert (bodies["plain"]["object"], bodies["plain"]["usage"]) == ("list", {"prompt_tokens": 2, "total_tokens": 2})
    assert {name: line["response"]["status_code"] for name, line in errors.items()} == {"tokens": 400, "unknown": 404}
    assert done.usage is not None
    assert (done.usage.input_tokens, done.usage.output_tokens) == (2 + 3 + 2, 0)


@pytest.mark.usefixtures("workers")
def test_fails_a_file_whose_lines_are_no_requests(client: openai.OpenAI) -> None:
    lines = [ask("a", "Hi"), ask("a", "Hi"), embed("b", "x"), ask("c", "Hi") | {"method": "GET"}, {"custom_id": "d"}]
    done = finished(client, order(client, lines).id)
    assert done.status == "failed"
    assert done.failed_at is not None
    assert (done.output_file_id, done.error_file_id) == (None, None)
    assert done.errors is not None
    assert done.errors.object == "list"
    found = [(error.code, error.line, error.param) for error in done.errors.data or []]
    assert found == [
        ("duplicate_custom_id", 2, "custom_id"),
        ("invalid_url", 3, "url"),
        ("invalid_method", 4, "method"),
        ("missing_required_parameter", 5, "body"),
    ]


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\x1f\x8b\x08\x00packed", b'{"custom_id": ', b"\xff\xfe{\x00"])
def test_fails_a_file_that_cannot_be_read(client: openai.OpenAI, content: bytes) -> None:
    file = client.files.create(file=("requests.jsonl", content), purpose="batch").id
    ordered = client.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h")
    done = finished(client, ordered.id)
    assert done.status == "failed"
    assert done.errors is not None
    assert len(done.errors.data or []) == 1


@pytest.mark.usefixtures("workers")
def test_keeps_what_is_done_when_it_is_cancelled(client: openai.OpenAI, home: Path) -> None:
    lines = [ask("one", "Hi"), ask("two", "Hi"), *(ask(f"slow{n}", "Answer slowly") for n in range(3))]
    ordered = order(client, lines)
    wait_until(lambda: completed(client, ordered.id) == 2, seconds=60)
    running = client.batches.retrieve(ordered.id)
    assert running.status == "in_progress"
    cancelling = client.batches.cancel(ordered.id)
    assert (cancelling.status, cancelling.cancelling_at is not None) == ("cancelling", True)
    done = finished(client, ordered.id)
    assert (done.status, done.cancelled_at is not None) == ("cancelled", True)
    assert set(read(client, done.output_file_id)) == {"one", "two"}
    errors = read(client, done.error_file_id)
    assert {name: line["error"]["code"] for name, line in errors.items()} == dict.fromkeys(
        ["slow0", "slow1", "slow2"], "batch_cancelled"
    )
    assert all(line["response"] is None for line in errors.values())
    wait_until((home / "abandoned").exists, seconds=30)
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        client.batches.cancel(ordered.id)


@pytest.mark.usefixtures("workers")
def test_writes_what_is_done_when_the_window_ends(client: openai.OpenAI, parts: Wiring, project_id: str) -> None:
    ordered = order(client, [ask("quick", "Hi"), ask("slow", "Answer slowly")])
    wait_until(lambda: completed(client, ordered.id) == 1, seconds=60)
    with parts.database.transaction(project_id) as session:
        session.execute(sa.text("UPDATE batches SET expires_at = now()"))
    done = finished(client, ordered.id)
    assert (done.status, done.expired_at is not None) == ("expired", True)
    assert set(read(client, done.output_file_id)) == {"quick"}
    errors = read(client, done.error_file_id)
    assert {name: line["error"]["code"] for name, line in errors.items()} == {"slow": "batch_expired"}


def completed(client: openai.OpenAI, batch_id: str) -> int:
    counts = client.batches.retrieve(batch_id).request_counts
    return counts.completed if counts else 0


@pytest.mark.usefixtures("workers")
def test_needs_its_input_file_no_more_once_it_is_ordered(client: openai.OpenAI, parts: Wiring, project_id: str) -> None:
    ordered = order(client, [ask("a", "Hi")])
    client.files.delete(ordered.input_file_id)
    done = finished(client, ordered.id)
    assert done.status == "completed"
    assert set(read(client, done.output_file_id)) == {"a"}
    with parts.database.transaction(project_id) as session:
        assert session.scalars(sa.select(BatchAnswer)).all() == []
    folder = parts.settings.home / "blobs" / project_id
    # the input's go once it is written down that the batch has ended; only the output's are left
    wait_until(lambda: len(list(folder.iterdir())) == 1, seconds=10)


@pytest.mark.usefixtures("workers")
def test_makes_its_files_expire_as_ordered(client: openai.OpenAI) -> None:
    lifetime = {"anchor": "created_at", "seconds": 7200}
    done = finished(client, order(client, [ask("a", "Hi")], output_expires_after=lifetime).id)
    written = client.files.retrieve(str(done.output_file_id))
    assert written.expires_at is not None
    assert 7195 <= written.expires_at - written.created_at <= 7205


@pytest.mark.usefixtures("workers")
def test_stops_where_the_months_tokens_are_used(
    client: openai.OpenAI, admin_database: Database, project_id: str
) -> None:
    grant(admin_database, project_id, tokens_per_month=100)
    # an answer takes more tokens than the month has; 32 are in flight when the first are counted
    done = finished(client, order(client, [ask(f"q{n}", "Hi") for n in range(200)]).id)
    assert done.status == "failed"
    assert done.errors is not None
    assert [error.code for error in done.errors.data or []] == ["insufficient_quota"]
    answered, unasked = read(client, done.output_file_id), read(client, done.error_file_id)
    assert 0 < len(answered) < 200
    assert len(answered) + len(unasked) == 200
    assert {line["error"]["code"] for line in unasked.values()} == {"batch_failed"}
    with pytest.raises(openai.RateLimitError, match="tokens of this month"):
        order(client, [ask("more", "Hi")])


def test_refuses_an_order_naming_the_field(client: openai.OpenAI, http: TestClient) -> None:
    batch = upload(client, [ask("a", "Hi")])
    other = client.files.create(file=("f", b"{}"), purpose="fine-tune").id
    good = {"input_file_id": batch, "endpoint": CHAT, "completion_window": "24h"}
    for field, value, status in (
        ("input_file_id", "file-nobody", 404),
        ("input_file_id", other, 400),
        ("endpoint", "/v1/images/generations", 400),
        ("completion_window", "1h", 400),
        ("metadata", {"k": "v" * 600}, 400),
        ("output_expires_after", {"anchor": "created_at", "seconds": 1}, 400),
        ("colour", "blue", 400),
    ):
        answer = http.post("/v1/batches", json=good | {field: value})
        assert answer.status_code == status, field
        assert answer.json()["error"]["param"].startswith(field)
    assert list(client.batches.list()) == []


def test_lists_by_pages_to_the_end(client: openai.OpenAI) -> None:
    ids = [order(client, [ask("a", "Hi")]).id for _ in range(5)]
    assert [batch.id for batch in client.batches.list(limit=2)] == ids[::-1]


def test_hides_batches_from_other_projects(client: openai.OpenAI, parts: Wiring, admin_database: Database) -> None:
    ordered = order(client, [ask("a", "Hi")])
    stranger = door(parts, make_project(admin_database))
    assert stranger.get(f"/v1/batches/{ordered.id}").status_code == 404
    assert stranger.post(f"/v1/batches/{ordered.id}/cancel").status_code == 404
    assert stranger.get("/v1/batches").json()["data"] == []
    body = {"input_file_id": ordered.input_file_id, "endpoint": CHAT, "completion_window": "24h"}
    assert stranger.post("/v1/batches", json=body).status_code == 404
