"""Answers that are kept: asked whole and streamed by the unmodified client, found again, changed, deleted, expired."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import sqlalchemy as sa

from deploy.local.engines import free_port
from services.generation.errors import UnsupportedParameter
from services.generation.handlers import complete_chat
from services.generation.stored import repository
from services.generation.stored.handlers import JOB_HANDLERS, keep_completion
from services.generation.stored.tables import StoredCompletion
from shared.database import Database
from shared.jobs import Job
from shared.jobs.runner import JobRunner
from shared.messages import DeleteExpiredCompletions
from shared.settings import Settings
from shared.wiring import Wiring
from tests.conftest import make_project
from tests.factories.generation import echo_worker, generation_app, listening
from tests.fakes import processes

pytestmark = pytest.mark.stack
HI: list[Any] = [{"role": "user", "content": "Hi"}]
DAY = "interval '1 day'"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored-home")
    for model in ("tiny", "other"):
        (folder / "models" / model).mkdir(parents=True)
        (folder / "models" / model / "config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def echo(
    stack_environment: dict[str, str], home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[processes.Process]:
    with echo_worker(stack_environment, home, tmp_path_factory.mktemp("echo")) as started:
        yield started


@pytest.fixture(scope="module")
def address(settings: Settings, home: Path, echo: processes.Process) -> Iterator[str]:
    with listening(generation_app(settings, home)) as found:
        yield found


@pytest.fixture
def client(address: str, project_id: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=address, api_key=project_id, max_retries=0) as connected:
        yield connected


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**({"model": "tiny", "messages": HI, "store": True} | more))


def rows(database: Database, project_id: str) -> list[StoredCompletion]:
    with database.transaction(project_id) as session:
        return list(session.scalars(sa.select(StoredCompletion)))


def sweeps(database: Database, project_id: str) -> list[Job]:
    with database.transaction(project_id) as session:
        return list(session.scalars(sa.select(Job).where(Job.kind == DeleteExpiredCompletions.kind)))


def test_keeps_what_it_answered_and_how_it_was_asked(client: openai.OpenAI) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": True}}
    asked: Any = {"n": 2, "seed": 7, "temperature": 0.5, "logprobs": True, "user": "ann", "response_format": schema}
    answer = ask(client, metadata={"topic": "greeting"}, **asked)
    found = client.chat.completions.retrieve(answer.id)
    assert found.metadata == {"topic": "greeting"}
    told = found.to_dict()
    assert {name: told.pop(name) for name in answer.to_dict()} == answer.to_dict()
    assert len(found.choices) == 2
    assert told.pop("request_id").startswith("req_")
    assert told.pop("response_format")["json_schema"]["schema"] == {"type": "object"}
    assert told == {
        "metadata": {"topic": "greeting"},
        "seed": 7,
        "temperature": 0.5,
        "top_p": None,
        "presence_penalty": None,
        "frequency_penalty": None,
        "input_user": "ann",
        "tools": None,
        "tool_choice": None,
    }


def test_keeps_a_stream_before_it_ends(client: openai.OpenAI) -> None:
    text, ended = {0: "", 1: ""}, 0
    for chunk in ask(client, stream=True, n=2, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            text[choice.index] += choice.delta.content or ""
            ended += choice.finish_reason is not None
        if ended == 2:  # the last finish chunk and the usage come once it is committed
            found = client.chat.completions.retrieve(chunk.id)
            assert found.object == "chat.completion"
            usage = chunk.usage
    assert {choice.index: choice.message.content for choice in found.choices} == text
    assert [choice.finish_reason for choice in found.choices] == ["stop", "stop"]
    assert found.usage == usage
    assert found.metadata == {}


def test_keeps_nothing_that_is_not_asked_for(client: openai.OpenAI, database: Database, project_id: str) -> None:
    for asked in ({"store": False}, {"store": None}, {"metadata": {"a": "b"}, "store": openai.NOT_GIVEN}):
        answer = ask(client, **asked)
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.retrieve(answer.id)
        assert (caught.value.code, caught.value.param) == ("completion_not_found", "completion_id")
    assert rows(database, project_id) == []


@pytest.mark.parametrize("stream", [False, True])
def test_keeps_no_answer_that_failed(client: openai.OpenAI, database: Database, project_id: str, stream: bool) -> None:
    with pytest.raises(openai.APIError, match="could not go on"):
        list(ask(client, messages=[{"role": "user", "content": "this fails"}], stream=stream))
    assert rows(database, project_id) == []


@pytest.mark.parametrize("stream", [False, True])
def test_keeps_no_answer_that_nobody_waited_for(
    client: openai.OpenAI, database: Database, project_id: str, home: Path, stream: bool
) -> None:
    (home / "abandoned").unlink(missing_ok=True)
    slowly = [{"role": "user", "content": "slowly"}]
    if stream:
        with ask(client, messages=slowly, stream=True) as answer:
            next(iter(answer))
    else:
        with pytest.raises(openai.APITimeoutError):
            ask(client.with_options(timeout=1.0), messages=slowly)
    processes.wait_until((home / "abandoned").exists, seconds=10)
    ask(client)  # and what the worker said last would have been heard before this
    assert len(rows(database, project_id)) == 1


@pytest.fixture(scope="module")
def without_database(settings: Settings, home: Path, echo: processes.Process) -> Iterator[str]:
    """A server whose database nobody can reach; the worker has its own connections."""
    away = settings.model_copy(update={"database_url": f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none"})
    with listening(generation_app(away, home)) as found:
        yield found


def test_asks_no_database_unless_something_is_to_be_stored(without_database: str, project_id: str) -> None:
    with openai.OpenAI(base_url=without_database, api_key=project_id, max_retries=0) as client:
        assert ask(client, store=False).choices
        assert list(ask(client, store=openai.NOT_GIVEN, stream=True))[-1].choices[0].finish_reason == "stop"


def test_says_so_where_an_answer_could_not_be_stored(without_database: str, project_id: str) -> None:
    with openai.OpenAI(base_url=without_database, api_key=project_id, max_retries=0) as client:
        with pytest.raises(openai.InternalServerError, match="did not store it") as caught:
            ask(client)
        assert (caught.value.status_code, caught.value.code, caught.value.param) == (503, "not_stored", "store")
        assert caught.value.response.headers["retry-after"]
        heard: list[str | None] = []
        with pytest.raises(openai.APIError, match="did not store it") as interrupted:
            heard.extend(chunk.choices[0].finish_reason for chunk in ask(client, stream=True))
        assert interrupted.value.code == "not_stored"
        assert set(heard) == {None}  # it spoke, and never said that it was done


def test_lists_to_the_end_in_both_orders(client: openai.OpenAI) -> None:
    made = [ask(client).id for _ in range(5)]
    assert [one.id for one in client.chat.completions.list(limit=2)] == made
    assert [one.id for one in client.chat.completions.list(limit=2, order="desc")] == made[::-1]
    first = client.chat.completions.list(limit=2)
    assert (first.has_more, first.data[0].object) == (True, "chat.completion")
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.list(after="chatcmpl-unknown")
    assert caught.value.param == "after"


def test_finds_by_model_and_by_every_pair_of_metadata(client: openai.OpenAI) -> None:
    red = ask(client, metadata={"colour": "red", "size": "1"}).id
    blue = ask(client, model="other", metadata={"colour": "blue", "size": "1"}).id
    plain = ask(client, model="other").id

    def found(**asked: Any) -> list[str]:
        return [one.id for one in client.chat.completions.list(limit=1, **asked)]

    assert found(model="other") == [blue, plain]
    assert found(metadata={"size": "1"}) == [red, blue]
    assert found(metadata={"size": "1", "colour": "blue"}) == [blue]
    assert found(model="tiny", metadata={"colour": "blue"}) == found(metadata={"size": "2"}) == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("metadata=a", "metadata"),
        ("metadata[]=1", "metadata[]"),
        ("metadata[a=1", "metadata[a"),
        ("metadata[a][b]=1", "metadata[a][b]"),
        ("metadata[a]=1&metadata[a]=2", "metadata[a]"),
    ],
)
def test_refuses_metadata_that_is_no_pair(client: openai.OpenAI, query: str, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.get(f"/chat/completions?{query}", cast_to=object)
    assert caught.value.param == param


def test_gives_the_messages_back_as_they_were_sent(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "One. "}, {"type": "text", "text": "Two."}]
    sent = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "Three.", "refusal": None},
        {"role": "user", "content": "\u00e9\u2028\U0001f600"},
    ]
    made = ask(client, messages=sent).id
    messages = list(client.chat.completions.messages.list(made, limit=3))
    assert [message.role for message in messages] == ["developer", "user", "assistant", "user"]
    assert [message.content for message in messages] == ["Be brief.", "One. Two.", "Three.", sent[3]["content"]]
    shown = [message.to_dict()["content_parts"] for message in messages]
    assert shown == [None, parts, None, None]
    ids = [message.id for message in messages]
    assert len(set(ids)) == 4
    backwards = client.chat.completions.messages.list(made, limit=3, order="desc")
    assert [message.id for message in backwards] == ids[::-1]
    assert [message.id for message in client.chat.completions.messages.list(made, after=ids[1])] == ids[2:]
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.messages.list(made, after=f"{made}-4")
    assert (caught.value.code, caught.value.param) == ("message_not_found", "after")


def test_keeps_what_jsonb_could_not_hold(database: Database, project_id: str, settings: Settings) -> None:
    answer = {"id": f"chatcmpl-{project_id}", "model": "tiny", "choices": [{"message": {"content": "a\0b"}}]}
    with database.transaction(project_id) as session:
        keep_completion(session, project_id, answer, HI, {}, days=1, settings=settings)
    [row] = rows(database, project_id)
    assert json.loads(row.completion) == answer


def test_changes_the_metadata_and_nothing_else(client: openai.OpenAI) -> None:
    made = ask(client, metadata={"a": "1", "b": "2"}).id
    before = client.chat.completions.retrieve(made)
    changed = client.chat.completions.update(made, metadata={"c": "3"})
    assert changed.metadata == {"c": "3"}
    assert client.chat.completions.retrieve(made) == changed
    assert changed.to_dict() | {"metadata": None} == before.to_dict() | {"metadata": None}
    assert client.chat.completions.update(made, metadata=None).metadata == {}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "metadata"),
        ({"metadata": {str(number): "v" for number in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {"": "v"}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"metadata": {}, "model": "other"}, "model"),
    ],
)
def test_refuses_other_changes_by_name(client: openai.OpenAI, body: dict[str, Any], param: str) -> None:
    made = ask(client).id
    with pytest.raises(openai.BadRequestError) as caught:
        client.post(f"/chat/completions/{made}", body=body, cast_to=object)
    assert (caught.value.param or "").startswith(param)


def test_forgets_what_is_deleted(client: openai.OpenAI) -> None:
    made, other = ask(client).id, ask(client).id
    gone = client.chat.completions.delete(made)
    assert (gone.id, gone.object, gone.deleted) == (made, "chat.completion.deleted", True)
    completions = client.chat.completions
    for call in (completions.retrieve, completions.delete, completions.messages.list):
        with pytest.raises(openai.NotFoundError):
            call(made)
    with pytest.raises(openai.NotFoundError):
        completions.update(made, metadata={})
    assert [one.id for one in completions.list()] == [other]


def test_shows_no_project_another_ones(client: openai.OpenAI, address: str, admin_database: Database) -> None:
    made = ask(client, metadata={"a": "b"}).id
    with openai.OpenAI(base_url=address, api_key=make_project(admin_database), max_retries=0) as stranger:
        completions = stranger.chat.completions
        for call in (completions.retrieve, completions.delete, completions.messages.list):
            with pytest.raises(openai.NotFoundError):
                call(made)
        assert list(completions.list(metadata={"a": "b"})) == []
    assert client.chat.completions.retrieve(made).id == made


def test_ends_with_its_days_and_is_swept_once_a_day(
    client: openai.OpenAI, database: Database, project_id: str, wiring: Wiring
) -> None:
    old, fresh = ask(client).id, ask(client).id
    for row in rows(database, project_id):
        assert row.expires_at is not None
        assert (row.expires_at - row.created_at).total_seconds() == pytest.approx(30 * 86400, abs=5)
    late = max(row.expires_at for row in rows(database, project_id) if row.expires_at)
    assert len(sweeps(database, project_id)) <= 2  # two where midnight fell between the two
    assert max(job.run_after for job in sweeps(database, project_id)) > late
    with database.transaction(project_id) as session:
        session.execute(
            sa.text(f"UPDATE stored_completions SET expires_at = now() - {DAY} WHERE id = :id"), {"id": old}
        )
        session.execute(sa.update(Job).values(run_after=sa.func.now()))
    with pytest.raises(openai.NotFoundError, match="expired"):
        client.chat.completions.retrieve(old)
    assert [one.id for one in client.chat.completions.list()] == [fresh]
    job = sweeps(database, project_id)[0]
    assert JobRunner(wiring, JOB_HANDLERS, worker="tests").run(project_id, job.id) == "succeeded"
    assert [row.id for row in rows(database, project_id)] == [fresh]
    assert sweeps(database, project_id)[0].result == {"completions": 1}


def test_is_kept_until_it_is_deleted_where_the_server_says_so(
    client: openai.OpenAI, database: Database, project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPLIFT_STORED_COMPLETION_DAYS", "0")
    made = ask(client).id
    assert [row.expires_at for row in rows(database, project_id)] == [None]
    assert sweeps(database, project_id) == []
    assert client.chat.completions.retrieve(made).id == made


@pytest.fixture
def grant(admin_database: Database, project_id: str) -> Callable[[int], None]:
    """Let the project store so many bytes."""

    def granted(stored_bytes: int) -> None:
        with admin_database.system_transaction() as session:
            session.execute(
                sa.text(
                    "INSERT INTO project_quotas (project_id, stored_bytes) VALUES (:project, :most) "
                    "ON CONFLICT (project_id) DO UPDATE SET stored_bytes = :most"
                ),
                {"project": project_id, "most": stored_bytes},
            )

    return granted


def test_counts_as_stored_bytes(
    client: openai.OpenAI, database: Database, project_id: str, grant: Callable[[int], None]
) -> None:
    made = ask(client, metadata={"a": "b"}).id
    [row] = rows(database, project_id)
    size = row.bytes
    assert size > len(row.completion)
    grant(2 * size - 1)
    with pytest.raises(openai.RateLimitError, match=f"stores {size}, and this would add") as caught:
        ask(client, metadata={"a": "b"})
    assert (caught.value.code, caught.value.param) == ("insufficient_quota", "store")
    assert caught.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.APIError, match="this would add") as interrupted:
        list(ask(client, stream=True, metadata={"a": "b"}))
    assert interrupted.value.code == "insufficient_quota"
    grant(size)
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.update(made, metadata={"a": "bc"})
    assert refused.value.param == "metadata"
    client.chat.completions.update(made, metadata={})
    client.chat.completions.update(made, metadata={"a": "b"})
    assert [row.bytes for row in rows(database, project_id)] == [size]
    client.chat.completions.delete(made)
    grant(2 * size)  # ids and moments may be longer by a little
    assert ask(client, metadata={"a": "b"}).id


def test_takes_no_order_to_store_from_a_batch() -> None:
    with pytest.raises(UnsupportedParameter, match="output file") as caught:
        complete_chat(None, {"model": "tiny", "messages": HI, "store": True})  # type: ignore[arg-type]
    assert caught.value.param == "store"


def test_reads_the_messages_only_where_they_are_asked_for(
    client: openai.OpenAI, database: Database, project_id: str
) -> None:
    made = ask(client).id
    with database.transaction(project_id) as session:
        assert "messages" in sa.inspect(repository.get_completion(session, made)).unloaded
