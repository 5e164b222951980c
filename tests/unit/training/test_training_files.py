"""Uploaded files become examples, and whatever is wrong with one is named with its file and line."""

import gzip
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.training.errors import InvalidTrainingFile
from services.training.training_files import Source, read_chats, read_preferences, read_texts

SOURCE = Source("training_file", "chats.jsonl")


def file(*lines: bytes) -> io.BytesIO:
    return io.BytesIO(b"\n".join(lines))


def line(*messages: tuple[str, object]) -> bytes:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in messages]}).encode()


def row(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def says(text: str, role: str = "assistant", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": text} | more


GOOD = line(("user", "q"), ("assistant", "a"))
ASKED = {"messages": [says("q", "user")]}
PAIR = {"input": ASKED, "preferred_output": [says("yes")], "non_preferred_output": [says("no")]}


def test_reads_the_answer_and_the_turns_before_it() -> None:
    (example,) = read_chats(file(line(("system", "s"), ("user", "q"), ("assistant", "a"))), SOURCE)
    assert (example.answer, example.also_learned, example.line) == ("a", (), 1)
    assert [message["role"] for message in example.messages] == ["system", "user"]


def test_learns_every_assistant_turn_but_those_of_weight_0() -> None:
    turns = [
        says("q", "user"),
        says("a"),
        says("r", "user"),
        says("b", weight=0),
        says("t", "user"),
        says("c", weight=1),
    ]
    (example,) = read_chats(file(row(messages=turns)), SOURCE)
    assert (example.answer, example.also_learned) == ("c", (1,))
    (example,) = read_chats(file(row(messages=[*turns[:3], says("b", weight=0)])), SOURCE)
    assert (example.answer, [message["content"] for message in example.messages]) == ("a", ["q"])


def test_takes_text_parts_and_empty_tools() -> None:
    parts = [{"type": "text", "text": "q"}, {"type": "text", "text": "?"}]
    (example,) = read_chats(
        file(row(messages=[{"role": "user", "content": parts}, says("a")], tools=[], parallel_tool_calls=True)), SOURCE
    )
    assert example.messages[0]["content"] == "q?"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"{", "not JSON"),
        (b"[]", "JSON object"),
        (b'{"messages": []}', "at least 2"),
        (line(("user", "q"), ("user", "r")), "must end with the assistant"),
        (line(("user", "q"), ("robot", "a")), r"messages\[1\].*role"),
        (line(("user", 3), ("assistant", "a")), r"messages\[0\].*text"),
        (line(("user", "q"), ("assistant", "  ")), r"messages\[1\].*text"),
        (row(messages=[says("q", "user"), says("a", weight=2)]), "weight"),
        (row(messages=[says("q", "user", weight=1), says("a")]), "weight"),
        (row(messages=[says("q", "user"), says("a", weight=0)]), "nothing to learn"),
        (row(messages=[says("q", "user"), says("a", tool_calls=[])]), "tool_calls` is not supported"),
        (row(messages=[says("q", "user"), says("a")], tools=[{"type": "function"}]), "tools` is not supported"),
        (row(prompt="q", completion="a"), "is not supported"),
        (row(**PAIR), "is not supported"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_names_the_line_that_is_no_chat(bad: bytes, why: str) -> None:
    lines = file(*[GOOD] * 500, b"", bad)
    with pytest.raises(InvalidTrainingFile, match=rf"^training_file \(chats\.jsonl\), line 502: .*{why}") as refused:
        list(read_chats(lines, SOURCE))
    assert refused.value.param == "training_file"


def test_refuses_a_line_without_end_and_a_packed_file() -> None:
    short = Source("validation_file", "chats.jsonl", longest_line=100)
    with pytest.raises(InvalidTrainingFile, match="line 2: the line is longer than 100 bytes") as refused:
        list(read_chats(file(GOOD, b" " * 101), short))
    assert refused.value.param == "validation_file"
    with pytest.raises(InvalidTrainingFile, match="gzip"):
        list(read_chats(io.BytesIO(gzip.compress(GOOD)), SOURCE))


def test_reads_a_preference() -> None:
    asked = {"messages": [says("s", "system"), says("q", "user")], "tools": [], "parallel_tool_calls": True}
    (example,) = read_preferences(file(row(**PAIR | {"input": asked})), SOURCE)
    assert (example.answer, example.rejected, example.line) == ("yes", "no", 1)
    assert [message["content"] for message in example.messages] == ["s", "q"]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (GOOD, "`messages` is not supported"),
        (row(**PAIR | {"input": [says("q", "user")]}), "`input` must be an object"),
        (row(**PAIR | {"input": {"messages": []}}), r"input\.messages"),
        (row(**PAIR | {"input": {"messages": [says("a")]}}), "end before the assistant"),
        (row(**PAIR | {"input": ASKED | {"tools": [1]}}), r"input\.tools"),
        (row(**PAIR | {"preferred_output": "yes"}), "preferred_output"),
        (row(**PAIR | {"preferred_output": [says("q", "user")]}), "one assistant message"),
        (row(**PAIR | {"non_preferred_output": [says("a"), says("b")]}), "one assistant message"),
        (row(input=ASKED, preferred_output=[says("yes")]), "non_preferred_output"),
        (row(**PAIR | {"non_preferred_output": [says("yes")]}), "are the same"),
        (row(**PAIR | {"preferred_output": [says("yes", weight=1)]}), "weight` is not supported"),
    ],
)
def test_names_the_line_that_is_no_preference(bad: bytes, why: str) -> None:
    with pytest.raises(InvalidTrainingFile, match=rf"line 2: .*{why}"):
        list(read_preferences(file(row(**PAIR), bad), SOURCE))


@pytest.mark.parametrize(
    ("read", "bad", "problem", "method"),
    [
        (read_chats, row(**PAIR), "`input` is not supported", "dpo"),
        (read_chats, row(text="t", group="g"), "`group` is not supported", "continued_pretraining"),
        (read_preferences, GOOD, "`messages` is not supported", "supervised"),
        (read_texts, row(**PAIR), "`input` is not supported", "dpo"),
    ],
)
def test_says_which_method_learns_from_such_rows(read: Any, bad: bytes, problem: str, method: str) -> None:
    with pytest.raises(InvalidTrainingFile) as refused:
        list(read(file(bad), SOURCE))
    told = refused.value.message
    assert told.startswith(f"training_file (chats.jsonl), line 1: {problem}. This is a ")
    assert f'`"method": {{"type": "{method}"}}`' in told
    assert f'`"objective": "{method}"`' in told


@pytest.mark.parametrize(
    ("source", "bad"),
    [
        (SOURCE, row(messages=[], preferred_output=[])),
        (SOURCE, row(prompt="q", completion="a")),
        (Source("replay_file", "old.jsonl"), row(**PAIR)),
    ],
)
def test_names_no_other_method_where_none_would_help(source: Source, bad: bytes) -> None:
    with pytest.raises(InvalidTrainingFile) as refused:
        list(read_chats(file(bad), source))
    assert "method" not in refused.value.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["messages", "role", "content", "weight", "input", "x"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(json_values, st.sampled_from([read_chats, read_preferences]))
def test_any_json_is_an_example_or_a_named_refusal(value: Any, read: Any) -> None:
    try:
        found = list(read(file(json.dumps(value).encode()), SOURCE))
    except InvalidTrainingFile as refused:
        assert "line 1:" in refused.message  # noqa: PT017
    else:
        assert all(example.answer.strip() for example in found)
