"""Importing: round trips, and refusals that name the line and the field."""

import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.data.errors import ImportFailed
from services.data.importers import Limits, read_examples
from services.data.normalise import clean_text

thorough = settings(max_examples=60)

plain = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40)
texts = plain.map(clean_text).filter(bool)
names = st.from_regex(r"[a-z]{1,8}\.md", fullmatch=True)
rows = st.fixed_dictionaries({"question": texts, "answer": texts, "document": names, "kind": texts})


def read(data: bytes | str, **options: Any) -> list[Any]:
    raw = data.encode() if isinstance(data, str) else data
    return list(read_examples(io.BytesIO(raw), **options))


def as_csv(table: list[dict[str, str]], delimiter: str = ",", end: str = "\r\n") -> str:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, list(table[0]), delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(table)
    return sink.getvalue()


def flat(example: Any) -> dict[str, str]:
    (document,) = example.documents
    return {"question": example.question, "answer": example.answer, "document": document, **example.metadata}


@thorough
@given(st.lists(rows, min_size=1, max_size=8), st.sampled_from(["\n", "\r\n", "\n\n"]), st.booleans())
def test_reads_back_what_was_written_as_jsonl(table: list[dict[str, str]], end: str, mark: bool) -> None:
    data = end.join(json.dumps(row) for row in table)
    assert [flat(e) for e in read(("\ufeff" if mark else "") + data)] == table


@thorough
@given(st.lists(rows, min_size=1, max_size=8), st.sampled_from([",", ";", "\t"]), st.sampled_from(["\n", "\r\n"]))
def test_reads_back_what_was_written_as_csv(table: list[dict[str, str]], delimiter: str, end: str) -> None:
    assert [flat(e) for e in read(as_csv(table, delimiter, end))] == table


def test_names_the_line_and_the_field_that_is_missing() -> None:
    data = '{"question": "q", "answer": "a"}\n' * 50_000 + '{"question": "q"}\n'
    with pytest.raises(ImportFailed, match=r'^line 50001: field "answer" is missing'):
        read(data)


GOOD = '{"question": "q", "answer": "a"}\n'


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (GOOD + '{"question": " ", "answer": "a"}', 'line 2: field "question" is empty'),
        (GOOD + '{"question": ["q"], "answer": "a"}', 'line 2: field "question" should be text, found a list'),
        (GOOD + '{"question": "q", "answer": null}', 'line 2: field "answer" should be text, found null'),
        (GOOD + '{"question": "q", "answer": true}', 'line 2: field "answer" should be text'),
        (GOOD + "\n" + '{"question": }', "line 3: not valid JSON: Expecting value at column 14"),
        (GOOD + "[1]", "line 2: expected a JSON object, found a list"),
        ('[{"question": "q"}]', "line 1: the file is one JSON array"),
        (GOOD + '{"question": "q", "answer": "a", "score": NaN}', "line 2: not usable JSON: NaN"),
        (GOOD + '{"question": "q", "answer": "a", "score": 1e999}', 'line 2: field "score" holds a number too large'),
        (GOOD + '{"question": "q", "answer": "\\ud800"}', 'line 2: field "answer" holds half of a surrogate'),
        (GOOD + '{"question": "q", "answer": "a", "document": 3}', 'line 2: field "document" should be a file name'),
        (GOOD + "[" * 100_000, "line 2: not"),
        ("question,answer\nq\n", r"line 2: 1 cells, but the header names 2 columns"),
        ('question,answer\n"q\nq",a\nq,\n', 'line 4: field "answer" is empty'),
        ('question,answer\nq,"a\n', "line 2: not valid CSV"),
        ("question,reply\nq,a\n", 'line 1: column "answer" is missing; found question, reply'),
        ("question,answer,kind,kind\nq,a,b,c\n", 'line 1: column "kind" is there twice'),
        ("", "The file is empty"),
        ("\n  \n", "The file is empty"),
        ("question,answer\n", "holds a header but no example"),
        (GOOD.encode() + b'{"question": "caf\xe9", "answer": "a"}', "line 2: not valid UTF-8 .byte 0xe9 at byte 18"),
        (GOOD.encode("utf-16"), "The file is UTF-16"),
        (GOOD + '{"messages": []}', 'line 2: field "messages" should be a list of turns'),
        (GOOD + '{"messages": [{"role": "user", "content": "q"}]}', "line 2: .* ends with a turn of user"),
        (GOOD + '{"messages": [{"role": "tool", "content": "q"}]}', r"line 2: field .messages\[0\].role. is 'tool'"),
        (GOOD + '{"messages": [{"role": "assistant", "content": "a"}]}', "line 2: .* has no user turn"),
        (GOOD + '{"messages": [{"role": "user"}]}', r"line 2: field .messages\[0\].content. should be text"),
    ],
)
def test_refuses_with_the_place(data: str | bytes, says: str) -> None:
    with pytest.raises(ImportFailed, match=says):
        read(data)


@thorough
@given(st.binary(max_size=300))
def test_answers_any_bytes_with_examples_or_a_refusal(data: bytes) -> None:
    with suppress(ImportFailed):
        assert read(data)


def test_takes_the_last_assistant_turn_of_a_chat_as_the_answer() -> None:
    turns = [("developer", "be brief"), ("user", "one?"), ("assistant", "1"), ("user", "two?"), ("assistant", "2")]
    row = {"messages": [{"role": r, "content": c} for r, c in turns], "document": "d.md", "kind": "count"}
    (example,) = read(json.dumps(row))
    assert [turn.role for turn in example.messages] == ["system", "user", "assistant", "user"]
    assert (example.answer, example.documents, example.metadata) == ("2", ("d.md",), {"kind": "count"})


def test_takes_several_documents_and_a_key_of_the_users_own() -> None:
    (example,) = read('{"question": "q", "answer": 42, "documents": ["b.md", "a.md", "b.md"]}')
    assert (example.answer, example.documents) == ("42", ("b.md", "a.md"))
    (example,) = read("question,answer,documents\nq,a,x.md; y.md\n")
    assert example.documents == ("x.md", "y.md")
    (example,) = read('{"question": "q", "answer": "a", "source": "s.md", "document": "kept"}', documents_key="source")
    assert (example.documents, example.metadata) == (("s.md",), {"document": "kept"})


def test_stops_at_its_limits() -> None:
    with pytest.raises(ImportFailed, match="line 3: more than 2 examples"):
        read(GOOD * 3, limits=Limits(max_examples=2))
    with pytest.raises(ImportFailed, match="line 2: the line is longer than 100 bytes"):
        read(GOOD + "x" * 101, limits=Limits(max_line_bytes=100))


class Endless(io.RawIOBase):
    """A source that never ends its line."""

    def read(self, size: int = -1) -> bytes:
        return b"x" * size


def test_refuses_an_endless_line_without_reading_it_whole() -> None:
    with pytest.raises(ImportFailed, match="longer than"):
        next(read_examples(cast(IO[bytes], Endless()), limits=Limits(max_line_bytes=1000)))


class Long(io.RawIOBase):
    """Two hundred megabytes of examples, made as they are read."""

    def __init__(self) -> None:
        self.left = 200

    def read(self, size: int = -1) -> bytes:
        self.left -= 1
        line = b'{"question": "' + b"q" * 200 + b'", "answer": "a"}\n'
        return line * (size // len(line)) if self.left > 0 else b""


def test_streams() -> None:
    source: Iterator[Any] = read_examples(cast(IO[bytes], Long()), limits=Limits(max_examples=10_000))
    tracemalloc.start()
    with pytest.raises(ImportFailed, match="line 10001: more than"):
        for _ in source:
            pass
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def packed(kind: str) -> bytes:
    plain_text, sink = b'{"question": "a", "answer": "b"}\n' * 9, io.BytesIO()
    if kind == "ZIP":
        with zipfile.ZipFile(sink, "w") as archive:
            archive.writestr("examples.jsonl", plain_text)
    elif kind == "tar":
        with tarfile.open(fileobj=sink, mode="w") as archive:
            entry = tarfile.TarInfo("examples.jsonl")
            entry.size = len(plain_text)
            archive.addfile(entry, io.BytesIO(plain_text))
    else:
        sink.write({"gzip": gzip, "bzip2": bz2, "XZ": lzma}[kind].compress(plain_text))  # type: ignore[attr-defined]
    return sink.getvalue()


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "XZ", "ZIP", "tar"])
def test_refuses_what_is_packed_by_its_name(kind: str) -> None:
    with pytest.raises(ImportFailed, match=rf"{kind} .*Nothing is unpacked here"):
        read(packed(kind))
