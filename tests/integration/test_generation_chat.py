"""Chat through the door, the queue and a worker, driven by the unmodified OpenAI client."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import sqlalchemy as sa

from shared.database import Database
from shared.ids import new_id
from shared.settings import Settings
from tests.conftest import make_project
from tests.factories.generation import echo_worker, generation_app, listening
from tests.fakes import processes

pytestmark = pytest.mark.stack
HI: list[Any] = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generation-home")
    (folder / "models" / "tiny").mkdir(parents=True)
    (folder / "models" / "tiny" / "config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def charges() -> list[tuple[str, int]]:
    """Projects and the tokens that they were charged for."""
    return []


@pytest.fixture
def charged(charges: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """What callers are charged for from now on."""
    charges.clear()
    return charges


@pytest.fixture(scope="module")
def address(settings: Settings, home: Path, charges: list[tuple[str, int]]) -> Iterator[str]:
    with listening(generation_app(settings, home, lambda *charged: charges.append(charged))) as found:
        yield found


@pytest.fixture
def client(address: str, project_id: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=address, api_key=project_id, max_retries=0) as connected:
        yield connected


@pytest.fixture(scope="module")
def echo(
    stack_environment: dict[str, str], home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[processes.Process]:
    with echo_worker(stack_environment, home, tmp_path_factory.mktemp("echo")) as started:
        yield started


def read_by_the_model(client: openai.OpenAI, model: str, **options: Any) -> dict[str, Any]:
    answer = client.chat.completions.create(model=model, messages=HI, **options)
    found: dict[str, Any] = json.loads(answer.choices[0].message.content or "")
    return found


def make_variant(client: openai.OpenAI, **content: Any) -> dict[str, Any]:
    body = {"name": "v", "base_model": "tiny", **content}
    return client.post("/variants", body=body, cast_to=dict[str, Any])


def test_answers_with_the_requests_own_sampling(client: openai.OpenAI, echo: processes.Process) -> None:
    read = read_by_the_model(client, "tiny", temperature=0.5, top_p=0.25, max_completion_tokens=3, stop="x", seed=4)
    assert read["sampling"] == [0.5, 0.25, 3, ["x"], 4]
    assert read["messages"][-1] == HI[0]
    assert read["interactive"] is True
    assert read_by_the_model(client, "tiny")["sampling"] == [1.0, 1.0, 256, [], None]
    assert read_by_the_model(client, "tiny", top_p=0)["sampling"][1] == 0.0


def test_counts_tokens_and_names_the_reason(client: openai.OpenAI, echo: processes.Process) -> None:
    answer = client.chat.completions.create(model="tiny", messages=HI)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 7
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 7
    assert (answer.object, answer.choices[0].finish_reason) == ("chat.completion", "stop")


def test_streams_the_same_answer_in_pieces(client: openai.OpenAI, echo: processes.Process) -> None:
    whole = client.chat.completions.create(model="tiny", messages=HI).choices[0].message.content
    asked = client.chat.completions.create(
        model="tiny", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = asked
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == whole
    assert len(pieces) > 5
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.usage is not None
    assert (last.choices, last.usage.completion_tokens) == ([], 7)


def test_passes_every_option_of_the_client_on_to_the_engine(client: openai.OpenAI, echo: processes.Process) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    read = read_by_the_model(
        client,
        "tiny",
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        logit_bias={"5": 7},
        logprobs=True,
        top_logprobs=2,
        max_completion_tokens=9,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}},
    )
    assert read["options"] == {
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "logit_bias": {"5": 7.0},
        "top_logprobs": 2,
        "json_schema": json.dumps(schema),
        "max_tokens_param": "max_completion_tokens",
    }


def test_answers_every_choice(client: openai.OpenAI, echo: processes.Process) -> None:
    answer = client.chat.completions.create(model="tiny", messages=HI, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 1
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3 * 7
    assert answer.usage.prompt_tokens + 21 == answer.usage.total_tokens
    assert (answer.service_tier, answer.choices[0].message.refusal, answer.choices[0].logprobs) == (None, None, None)
    assert (answer.system_fingerprint or "").startswith("fp_")


def test_streams_every_choice_by_its_index(client: openai.OpenAI, echo: processes.Process) -> None:
    whole = client.chat.completions.create(model="tiny", messages=HI, n=2).choices
    usage = {"include_usage": True}
    *found, last = client.chat.completions.create(model="tiny", messages=HI, n=2, stream=True, stream_options=usage)  # type: ignore[call-overload]
    text = {0: "", 1: ""}
    for chunk in found:
        assert chunk.usage is None
        assert "usage" in chunk.to_dict(exclude_unset=True)
        (choice,) = chunk.choices
        text[choice.index] += choice.delta.content or ""
    assert text == {choice.index: choice.message.content for choice in whole}
    assert [chunk.choices[0].delta.role for chunk in found[:2]] == ["assistant"] * 2
    assert sorted(c.choices[0].index for c in found if c.choices[0].finish_reason == "stop") == [0, 1]
    assert last.usage.completion_tokens == 14


@pytest.mark.parametrize("stream", [False, True])
def test_reports_log_probabilities_that_spell_the_text(
    client: openai.OpenAI, echo: processes.Process, stream: bool
) -> None:
    asked: Any = {"model": "tiny", "messages": HI, "logprobs": True, "top_logprobs": 2}
    if stream:
        chunks = list(client.chat.completions.create(stream=True, **asked))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        tokens = [token for c in chunks if c.choices[0].logprobs for token in c.choices[0].logprobs.content]
    else:
        choice = client.chat.completions.create(**asked).choices[0]
        text, tokens = choice.message.content or "", (choice.logprobs and choice.logprobs.content) or []
    assert "".join(token.token for token in tokens) == text
    assert bytes(byte for token in tokens for byte in token.bytes or []).decode() == text
    assert {round(token.logprob, 6) for token in tokens} == {-0.693147}
    assert {len(token.top_logprobs) for token in tokens} == {2}


def test_lets_the_clients_stream_helper_put_the_answer_together(client: openai.OpenAI, echo: processes.Process) -> None:
    whole = client.chat.completions.create(model="tiny", messages=HI).choices[0].message.content
    with client.chat.completions.stream(model="tiny", messages=HI, stream_options={"include_usage": True}) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == whole
    assert final.usage is not None
    assert final.usage.completion_tokens == 7


def test_raises_in_the_client_what_goes_wrong_in_the_middle_of_a_stream(
    client: openai.OpenAI, echo: processes.Process
) -> None:
    failing: list[Any] = [{"role": "user", "content": "this fails"}]
    stream = client.chat.completions.create(model="tiny", messages=failing, stream=True)
    assert next(stream).choices[0].delta.role == "assistant"
    assert next(stream).choices[0].delta.content
    with pytest.raises(openai.APIError, match="could not go on") as caught:
        next(stream)
    assert caught.value.code == "generation_failed"
    with pytest.raises(openai.InternalServerError, match="could not go on"):
        client.chat.completions.create(model="tiny", messages=failing)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"extra_body": {"temprature": 1}}, "temprature"),
        ({"temperature": 3}, "temperature"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "y"}]}, "messages.0.tool_call_id"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, None),
    ],
)
def test_names_the_field_that_it_refuses(client: openai.OpenAI, options: dict[str, Any], param: str | None) -> None:
    asked: Any = {"model": "tiny", "messages": HI} | options
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**asked)
    assert caught.value.param == (param or "messages.0.content.0.type")


@pytest.mark.parametrize("stream", [False, True])
def test_answers_an_unknown_model_with_404(client: openai.OpenAI, echo: processes.Process, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'none'") as caught:
        client.chat.completions.create(model="none", messages=HI, stream=stream)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_lets_a_variant_decide_what_the_request_leaves_open(client: openai.OpenAI, echo: processes.Process) -> None:
    prompt = {"system": "Be brief.", "instruction": "In feet.", "shots": [{"question": "q", "answer": "a"}]}
    variant = make_variant(client, prompt=prompt, sampling={"temperature": 0, "max_tokens": 9})
    read = read_by_the_model(client, variant["model"])
    assert [message["content"] for message in read["messages"]] == ["Be brief.", "In feet.\nq", "a", "In feet.\nHi"]
    assert read["sampling"][:3] == [0.0, 1.0, 9]
    assert read_by_the_model(client, variant["model"], temperature=1, max_tokens=5)["sampling"][:3] == [1.0, 1.0, 5]


@pytest.fixture
def store(database: Database, project_id: str) -> str:
    """A vector store's row; its passages are the stand-in's."""
    row = {"id": new_id("vs_"), "project_id": project_id}
    made = (
        "INSERT INTO vector_stores (id, project_id, name, embedder, chunking, metadata, status) "
        "VALUES (:id, :project_id, 'corpus', 'none', '{}', '{}', 'completed')"
    )
    with database.transaction(project_id) as session:
        session.execute(sa.text(made), row)
    return row["id"]


def test_cites_exactly_the_passages_that_the_model_read(
    client: openai.OpenAI, echo: processes.Process, store: str
) -> None:
    retrieval = {"vector_store_id": store, "k": 4, "max_passage_tokens": 8}
    variant = make_variant(client, retrieval=retrieval)
    answer = client.chat.completions.create(model=variant["model"], messages=HI)
    read = json.loads(answer.choices[0].message.content or "")["messages"][-1]["content"]
    citations = (answer.model_extra or {})["citations"]
    assert [cited["document"] for cited in citations] == ["0.md", "1.md"]
    assert "[2] interactive: Hi 1" in read
    assert "[3]" not in read
    streamed = list(client.chat.completions.create(model=variant["model"], messages=HI, stream=True))
    assert streamed[-1].choices[0].finish_reason == "stop"
    assert (streamed[-1].model_extra or {})["citations"] == citations
    assert {"file_id", "document", "passage_id", "title", "text", "score"} == set(citations[0])
    with client.chat.completions.stream(model=variant["model"], messages=HI) as helped:
        chunks = [event.chunk for event in helped if event.type == "chunk"]
    assert (chunks[-1].model_extra or {})["citations"] == citations


def test_refuses_a_variant_whose_passages_nobody_would_read(client: openai.OpenAI, store: str) -> None:
    retrieval = {"vector_store_id": store, "k": 2, "max_passage_tokens": 8}
    with pytest.raises(openai.BadRequestError, match="with_passages") as caught:
        make_variant(client, retrieval=retrieval, prompt={"instruction": "x"})
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("stream", [False, True])
def test_frees_the_worker_when_the_client_hangs_up(
    client: openai.OpenAI, echo: processes.Process, home: Path, stream: bool
) -> None:
    (home / "abandoned").unlink(missing_ok=True)
    slowly: list[Any] = [{"role": "user", "content": "slowly"}]
    if stream:
        with client.chat.completions.create(model="tiny", messages=slowly, stream=True) as answer:
            next(iter(answer))
    else:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=1.0).chat.completions.create(model="tiny", messages=slowly)
    processes.wait_until((home / "abandoned").exists, seconds=10)


def test_charges_what_was_read_of_a_stream_that_nobody_heard_the_end_of(
    client: openai.OpenAI, echo: processes.Process, charged: list[tuple[str, int]], project_id: str
) -> None:
    slowly: list[Any] = [{"role": "user", "content": "slowly"}]
    with client.chat.completions.create(model="tiny", messages=slowly, stream=True) as answer:
        pieces = [chunk.choices[0].delta.content for chunk, _ in zip(answer, range(4), strict=False)]
    assert pieces == ["", "0 ", "1 ", "2 "]
    processes.wait_until(lambda: len(charged) == 1, seconds=10)
    ((project, tokens),) = charged
    assert (project, tokens >= 1 + 3) == (project_id, True)


def test_charges_an_answer_that_breaks_off_and_a_whole_one_once(
    client: openai.OpenAI, echo: processes.Process, charged: list[tuple[str, int]], project_id: str
) -> None:
    fails: list[Any] = [{"role": "user", "content": "fails"}]
    with pytest.raises(openai.APIError, match="could not go on"):
        list(client.chat.completions.create(model="tiny", messages=fails, stream=True, n=2))
    assert len(charged) == 1
    assert charged[0][1] > 2
    charged.clear()
    list(client.chat.completions.create(model="tiny", messages=HI, stream=True))
    usage = client.chat.completions.create(model="tiny", messages=HI).usage
    assert usage is not None
    assert charged == [(project_id, usage.total_tokens)] * 2


def test_shows_no_project_another_ones_variants(
    client: openai.OpenAI, address: str, admin_database: Database, echo: processes.Process
) -> None:
    variant = make_variant(client)
    with openai.OpenAI(base_url=address, api_key=make_project(admin_database), max_retries=0) as stranger:
        with pytest.raises(openai.NotFoundError):
            stranger.chat.completions.create(model=variant["model"], messages=HI)
        assert [model.id for model in stranger.models.list()] == ["tiny"]
