"""It keeps answers that were asked with `store`: shown, listed, found again, changed and deleted."""

from typing import Any

import openai
import pytest

from tests.contract.client.conftest import CHAT

covers = pytest.mark.covers
QUESTION: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name the capital of France."},
]


def kept(client: openai.OpenAI, **more: Any) -> Any:
    asked: dict[str, Any] = {"model": CHAT, "messages": QUESTION, "max_tokens": 3, "temperature": 0, "store": True}
    return client.chat.completions.create(**(asked | more))


@covers("chat.completions.create", "chat.completions.retrieve")
def test_gives_back_what_it_answered(client: openai.OpenAI) -> None:
    answer = kept(client, n=2, metadata={"suite": "contract"})
    found = client.chat.completions.retrieve(answer.id)
    assert found.object == "chat.completion"
    assert (found.id, found.created, found.model) == (answer.id, answer.created, CHAT)
    assert (found.choices, found.usage) == (answer.choices, answer.usage)
    assert found.to_dict()["metadata"] == {"suite": "contract"}


@covers("chat.completions.create", "chat.completions.retrieve")
def test_keeps_what_it_streamed(client: openai.OpenAI) -> None:
    text, answer_id = ["", ""], ""
    for chunk in kept(client, n=2, seed=5, temperature=1, stream=True):
        answer_id = chunk.id
        for choice in chunk.choices:
            text[choice.index] += choice.delta.content or ""
    found = client.chat.completions.retrieve(answer_id)
    assert [choice.message.content for choice in found.choices] == text


@covers("chat.completions.stream", "chat.completions.retrieve")
def test_keeps_what_the_stream_helper_put_together(client: openai.OpenAI) -> None:
    asked: Any = {"model": CHAT, "messages": QUESTION[1:], "stop": ["."], "temperature": 0}
    with client.chat.completions.stream(store=True, **asked) as stream:
        final = stream.get_final_completion()
    assert client.chat.completions.retrieve(final.id).choices[0].message.content == final.choices[0].message.content


@covers("chat.completions.list")
def test_lists_to_the_end_in_both_orders_and_by_model_and_metadata(client: openai.OpenAI) -> None:
    made = [kept(client, metadata={"list": "both", "odd": str(number % 2)}).id for number in range(3)]
    assert [one.id for one in client.chat.completions.list(metadata={"list": "both"}, limit=2)] == made
    newest_first = client.chat.completions.list(metadata={"list": "both"}, model=CHAT, order="desc", limit=1)
    assert newest_first.has_more is True
    assert [one.id for one in newest_first] == made[::-1]
    assert [one.id for one in client.chat.completions.list(metadata={"list": "both", "odd": "1"})] == [made[1]]
    assert list(client.chat.completions.list(metadata={"list": "both"}, model="no-such-model")) == []
    everything = [one.id for one in client.chat.completions.list(limit=2)]
    assert len(set(everything)) == len(everything)
    assert [one for one in everything if one in made] == made


@covers("chat.completions.messages.list")
def test_lists_the_messages_that_it_answered(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "Name the capital "}, {"type": "text", "text": "of Spain."}]
    answer = kept(client, messages=[*QUESTION, {"role": "user", "content": parts}])
    messages = list(client.chat.completions.messages.list(answer.id, limit=2))
    assert [message.role for message in messages] == ["system", "user", "user"]
    assert [message.content for message in messages] == [
        "Be brief.", "Name the capital of France.", "Name the capital of Spain.",
    ]  # fmt: skip
    assert len({message.id for message in messages}) == 3
    newest_first = client.chat.completions.messages.list(answer.id, limit=1, order="desc")
    assert [message.id for message in newest_first] == [message.id for message in messages[::-1]]
    assert messages[0].to_dict()["content_parts"] is None
    assert messages[2].to_dict()["content_parts"] == parts


@covers("chat.completions.update")
def test_changes_the_metadata(client: openai.OpenAI) -> None:
    answer = kept(client, metadata={"a": "1"})
    changed = client.chat.completions.update(answer.id, metadata={"b": "2"})
    assert (changed.id, changed.to_dict()["metadata"]) == (answer.id, {"b": "2"})
    assert client.chat.completions.retrieve(answer.id) == changed
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.update(answer.id, metadata={"k" * 65: "v"})
    assert (refused.value.param or "").startswith("metadata")


@covers("chat.completions.delete")
def test_deletes_and_then_knows_it_no_more(client: openai.OpenAI) -> None:
    answer = kept(client)
    gone = client.chat.completions.delete(answer.id)
    assert (gone.id, gone.object, gone.deleted) == (answer.id, "chat.completion.deleted", True)
    for call in (client.chat.completions.retrieve, client.chat.completions.delete):
        with pytest.raises(openai.NotFoundError) as refused:
            call(answer.id)
        assert refused.value.code == "completion_not_found"


@covers("chat.completions.retrieve", "chat.completions.list", "chat.completions.messages.list")
def test_keeps_nothing_unasked_and_shows_nobody_elses(client: openai.OpenAI, neighbour: openai.OpenAI) -> None:
    passing, answer = kept(client, store=False), kept(client)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve(passing.id)
    with pytest.raises(openai.NotFoundError):
        neighbour.chat.completions.retrieve(answer.id)
    with pytest.raises(openai.NotFoundError):
        neighbour.chat.completions.messages.list(answer.id)
    assert list(neighbour.chat.completions.list()) == []


@covers("chat.completions.list")
@pytest.mark.parametrize(("asked", "param"), [({"limit": 101}, "limit"), ({"order": "sideways"}, "order")])
def test_refuses_by_name_what_a_list_cannot_be(client: openai.OpenAI, asked: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.list(**asked)
    assert refused.value.param == param
