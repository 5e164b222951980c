"""Cutting, extracting, fusing, filtering: the pure parts of retrieval."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retrieval.batcher import BatchingEmbedder
from services.retrieval.embedder import Vectors
from services.retrieval.errors import InvalidFilter
from services.retrieval.extract import to_text
from services.retrieval.filters import to_sql
from services.retrieval.fusion import fuse
from services.retrieval.lexemes import compounds, quote, tsvector_literal
from services.retrieval.passages import cut, document_title
from services.retrieval.tables import VectorStoreFile
from shared.errors import InvalidInput

words = st.text(alphabet="abcdefgh.!? \n#", max_size=400)


def count(text: str) -> int:
    return len(text.split())


@given(words, st.integers(2, 30))
def test_loses_no_word_and_keeps_their_order(text: str, most: int) -> None:
    plain = text.replace("#", "x")
    chunks = cut(plain, fallback_title="t", count=count, most=most)
    assert " ".join(chunk.text for chunk in chunks).split() == plain.split()


@given(words, st.integers(2, 30), st.integers(0, 1))
def test_makes_no_passage_over_the_limit_and_none_empty(text: str, most: int, overlap: int) -> None:
    chunks = cut(text, fallback_title="t", count=count, most=most, overlap=overlap)
    assert all(0 < chunk.tokens <= most for chunk in chunks)
    assert all(chunk.tokens == count(chunk.text) for chunk in chunks)


def test_titles_passages_by_their_path_of_headings() -> None:
    text = "# Guide\nintro\n\n## Setup\nfirst\n\n### Linux\nsecond\n\n## Use\nthird"
    titles = [chunk.title for chunk in cut(text, fallback_title="file", count=count, most=50)]
    assert titles == ["Guide", "Guide › Setup", "Guide › Setup › Linux", "Guide › Use"]
    assert document_title(text, "file") == "Guide"
    assert document_title("no heading", "file") == "file"


def test_repeats_whole_sentences_when_asked_to_overlap() -> None:
    text = "One two three. Four five six. Seven eight nine."
    chunks = cut(text, fallback_title="t", count=count, most=6, overlap=3)
    assert [chunk.text for chunk in chunks] == ["One two three. Four five six.", "Four five six. Seven eight nine."]


def test_cuts_a_word_that_is_too_long_by_itself() -> None:
    chunks = cut("x" * 100, fallback_title="t", count=len, most=30)
    assert "".join(chunk.text for chunk in chunks) == "x" * 100
    assert max(len(chunk.text) for chunk in chunks) <= 30


@pytest.mark.parametrize("overlap", [-1, 10, 11])
def test_refuses_an_overlap_that_never_ends(overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap"):
        cut("text", fallback_title="t", count=count, most=10, overlap=overlap)


def test_reads_html_as_text_with_headings_and_without_scripts() -> None:
    html = b"<head><title>x</title></head><h1>Big</h1><p>a &amp; b</p><script>evil()</script><ul><li>one</li></ul>"
    text = to_text("page.html", html)
    assert "# Big" in text
    assert "a & b" in text
    assert "evil" not in text


@pytest.mark.parametrize(("name", "data"), [("a.pdf", b"%PDF"), ("a.txt", b"\xff\xfe"), ("a.md", b"a\x00b")])
def test_refuses_what_it_cannot_read_by_name(name: str, data: bytes) -> None:
    with pytest.raises(InvalidInput, match=name):
        to_text(name, data)


def test_keeps_identifiers_whole() -> None:
    found = compounds("Set autovacuum_naptime, runtime-config.html and WAL_level; autovacuum_naptime again")
    assert found == ["autovacuum_naptime", "runtime-config.html", "wal_level"]
    assert quote("it's\\") == "'it''s\\\\'"
    assert tsvector_literal(["a_b"], "A") == "'a_b':1A"


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), max_size=3))
def test_fuses_every_id_once_best_first(legs: list[list[str]]) -> None:
    fused = fuse(legs)
    assert {found for found, _ in fused} == {found for leg in legs for found in leg}
    assert [score for _, score in fused] == sorted((score for _, score in fused), reverse=True)


def test_prefers_what_both_legs_found_and_breaks_ties_by_id() -> None:
    assert [found for found, _ in fuse([["a", "b"], ["c", "b"]])] == ["b", "a", "c"]


@pytest.mark.parametrize(
    "bad",
    [
        "text",
        {"key": "a", "value": 1},
        {"type": "like", "key": "a", "value": "b"},
        {"type": "gt", "key": "a", "value": "b"},
        {"type": "in", "key": "a", "value": "b"},
        {"type": "and", "filters": []},
        {"type": "eq", "key": "a", "value": {"b": 1}},
        {"type": "eq", "key": 1, "value": 1},
    ],
)
def test_refuses_filters_that_make_no_sense(bad: object) -> None:
    with pytest.raises(InvalidFilter):
        to_sql(bad, VectorStoreFile.attributes)


def test_refuses_filters_that_nest_without_end() -> None:
    nested: dict[str, object] = {"type": "eq", "key": "a", "value": 1}
    for _ in range(20):
        nested = {"type": "or", "filters": [nested]}
    with pytest.raises(InvalidFilter, match="deep"):
        to_sql(nested, VectorStoreFile.attributes)


def test_puts_filter_values_into_parameters_only() -> None:
    evil = "'; DROP TABLE passages; --"
    compiled = to_sql({"type": "eq", "key": evil, "value": evil}, VectorStoreFile.attributes).compile()
    assert "DROP" not in str(compiled)


class SlowEmbedder:
    """An honest small embedder: counts its batches and takes its time."""

    name, dimensions = "slow", 2

    def __init__(self) -> None:
        self.batches: list[int] = []

    def embed(self, texts: list[str]) -> Vectors:
        self.batches.append(len(texts))
        if "bad" in texts:
            raise ValueError("cannot embed this")
        time.sleep(0.05)
        return np.asarray([[len(text), 1.0] for text in texts], dtype=np.float32)

    def count_tokens(self, texts: list[str]) -> list[int]:
        return [len(text) for text in texts]


def test_answers_many_threads_in_few_batches_each_with_its_own() -> None:
    slow = SlowEmbedder()
    batching = BatchingEmbedder("slow", lambda: slow)
    found: dict[int, Vectors] = {}

    def ask(size: int) -> None:
        found[size] = batching.embed(["x" * size])

    threads = [threading.Thread(target=ask, args=(size,)) for size in range(1, 33)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batching.close()
    assert {size: float(vectors[0, 0]) for size, vectors in found.items()} == {n: float(n) for n in range(1, 33)}
    assert len(slow.batches) < 16


def test_fails_the_caller_and_serves_the_next() -> None:
    batching = BatchingEmbedder("slow", SlowEmbedder)
    with pytest.raises(ValueError, match="cannot embed"):
        batching.embed(["bad"])
    assert batching.embed(["good"]).shape == (1, 2)
    batching.close()


def test_tells_every_caller_why_the_model_could_not_be_loaded() -> None:
    def broken() -> SlowEmbedder:
        raise OSError("no such folder")

    batching = BatchingEmbedder("slow", broken)
    for _ in range(2):
        with pytest.raises(OSError, match="no such folder"):
            batching.embed(["x"])
    batching.close()
