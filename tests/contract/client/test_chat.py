"""It answers chats: whole, streamed, several at once, constrained, and by every model id."""

import asyncio
import json

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob
from pydantic import BaseModel

from tests.contract.client.conftest import CHAT

covers = pytest.mark.covers
QUESTION = [{"role": "user", "content": "Name the capital of France."}]


@covers("chat.completions.create")
def test_answers_with_every_field(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=8, temperature=0, seed=1)
    assert answer.object == "chat.completion"
    assert answer.id
    assert answer.created > 1_600_000_000
    assert answer.model == CHAT
    [choice] = answer.choices
    assert (choice.index, choice.message.role) == (0, "assistant")
    assert choice.message.content
    assert choice.finish_reason in {"stop", "length"}
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@covers("chat.completions.create")
def test_streams_the_same_text_with_usage_in_a_last_chunk_of_its_own(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=CHAT, messages=QUESTION, max_completion_tokens=8, temperature=0)
    stream = client.chat.completions.create(
        model=CHAT,
        messages=QUESTION,
        max_completion_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


@covers("chat.completions.stream")
def test_streams_through_the_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model=CHAT, messages=QUESTION, stop=["."], temperature=0) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        assert text
        assert stream.get_final_completion().choices[0].message.content == text


@covers("chat.completions.create")
def test_gives_several_answers_with_their_seeds(client: openai.OpenAI) -> None:
    def ask() -> list[str | None]:
        answer = client.chat.completions.create(
            model=CHAT, messages=QUESTION, max_tokens=6, n=3, temperature=1.2, top_p=0.95, seed=11
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    assert ask() == ask()


@covers("chat.completions.create")
def test_streams_several_answers_by_their_index(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=4, n=2, seed=3, stream=True)
    ends = {choice.index: choice.finish_reason for chunk in stream for choice in chunk.choices if choice.finish_reason}
    assert set(ends) == {0, 1}


@covers("chat.completions.create")
def test_gives_the_log_probability_of_every_token(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=CHAT, messages=QUESTION, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3
    )
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.content
    assert answer.usage is not None
    assert len(found.content) in {answer.usage.completion_tokens, answer.usage.completion_tokens - 1}
    for token in found.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob, abs=1e-3)  # greedy takes the likeliest
    text = b"".join(bytes(token.bytes or b"") for token in found.content)
    assert text.decode(errors="replace").startswith((answer.choices[0].message.content or "")[:10])


@covers("chat.completions.create")
def test_stops_at_a_stop_word_and_leaves_it_out(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=12, temperature=0)
    words = (whole.choices[0].message.content or "").split()
    cut = client.chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=12, temperature=0, stop=[words[2]])
    assert cut.choices[0].finish_reason == "stop"
    assert words[2] not in (cut.choices[0].message.content or "")


@covers("chat.completions.create")
def test_answers_in_json(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": "Give a JSON object with the key city."}],
        max_tokens=60,
        temperature=0,
        response_format={"type": "json_object"},
    )
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
    else:
        assert (answer.choices[0].message.content or "").startswith("{")


class Verdict(BaseModel):
    """What the schema test asks for: short, so that a small budget suffices."""

    good: bool
    grade: int


@covers("chat.completions.parse")
def test_answers_in_the_shape_of_a_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"good": {"type": "boolean"}, "grade": {"type": "integer", "enum": [1, 2, 3]}},
        "required": ["good", "grade"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=CHAT,
        messages=QUESTION,
        max_tokens=40,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema, "strict": True}},
    )
    found = json.loads(answer.choices[0].message.content or "")
    assert set(found) == {"good", "grade"}
    assert found["grade"] in {1, 2, 3}
    parsed = client.chat.completions.parse(
        model=CHAT, messages=QUESTION, max_tokens=60, temperature=0, response_format=Verdict
    )
    assert isinstance(parsed.choices[0].message.parsed, Verdict)


@covers("chat.completions.create")
def test_answers_as_a_fine_tuned_model(client: openai.OpenAI, trained: FineTuningJob) -> None:
    answer = client.chat.completions.create(
        model=trained.fine_tuned_model or "", messages=QUESTION, max_tokens=4, temperature=0
    )
    assert answer.model == trained.fine_tuned_model
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


@covers("chat.completions.create")
def test_cites_the_passages_that_a_retrieval_model_read(client: openai.OpenAI, store: str) -> None:
    variant = client.post(
        "/variants",
        body={
            "name": "household",
            "base_model": CHAT,
            "retrieval": {"vector_store_id": store, "k": 2, "max_passage_tokens": 300},
            "sampling": {"temperature": 0.0, "max_tokens": 8},
        },
        cast_to=object,
    )
    answer = client.chat.completions.create(
        model=variant["model"],  # type: ignore[index]
        messages=[{"role": "user", "content": "What is the lid of the kettle made of?"}],
    )
    citations = answer.model_dump()["citations"]
    assert citations[0]["document"] == "kettle.md"
    assert citations[0]["file_id"]
    assert citations[0]["passage_id"]
    assert isinstance(citations[0]["score"], float)


@covers("chat.completions.create")
def test_refuses_an_unknown_model_before_a_stream_begins(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError) as refused:
            client.chat.completions.create(model="no-such-model", messages=QUESTION, stream=stream)
        assert refused.value.code == "model_not_found"
        assert refused.value.param == "model"


@covers("chat.completions.create")
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": 9}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"no_such_option": 1}, "no_such_option"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"max_tokens": 10_000_000}, "max_tokens"),
    ],
)
def test_refuses_by_name_what_it_cannot_honour(client: openai.OpenAI, body: dict, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=CHAT, messages=QUESTION, extra_body=body)
    assert (refused.value.param or "").startswith(param)
    assert refused.value.type == "invalid_request_error"


@covers("chat.completions.create")
def test_refuses_a_conversation_beyond_the_models_window(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model=CHAT, messages=[{"role": "user", "content": "word " * 20_000}], max_tokens=4
        )
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.param == "messages"


@covers("chat.completions.create")
def test_answers_the_asynchronous_client(async_client: openai.AsyncOpenAI) -> None:
    async def both() -> tuple[str, str]:
        async with async_client as opened:
            whole = await opened.chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=6, temperature=0)
            stream = await opened.chat.completions.create(
                model=CHAT, messages=QUESTION, max_tokens=6, temperature=0, stream=True
            )
            parts = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
            return whole.choices[0].message.content or "", "".join(parts)

    whole, streamed = asyncio.run(both())
    assert whole
    assert streamed == whole
