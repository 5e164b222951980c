"""Cutting documents into passages, and getting text out of files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retrieval.extract import storable, to_text
from services.retrieval.lexemes import compounds, quote, tsvector_literal
from services.retrieval.passages import cut, document_title
from shared.errors import InvalidInput

words = st.text(alphabet="abcdefgh.!? \n#", max_size=400)
markup = st.lists(
    st.sampled_from(["# A", "## B", "- item one", "para one. Two", "", "```", "| a | b |", "Under\n===", "1. step"])
).map("\n".join)


def count(text: str) -> int:
    return len(text.split())


@given(words, st.integers(2, 30))
def test_loses_no_word_and_keeps_their_order(text: str, most: int) -> None:
    plain = text.replace("#", "x")
    chunks = cut(plain, fallback_title="t", count=count, most=most)
    assert "".join("".join(chunk.text for chunk in chunks).split()) == "".join(plain.split())


@given(markup, st.integers(2, 12))
def test_keeps_what_markup_says_in_text_or_title(text: str, most: int) -> None:
    chunks = cut(text, fallback_title="t", count=count, most=most)
    kept = " ".join(f"{chunk.title} {chunk.text}" for chunk in chunks)
    for word in ("A", "B", "item", "para", "step"):
        assert (word in kept.split()) == (word in text.split())


@given(st.one_of(words, markup), st.integers(2, 30), st.integers(0, 1))
def test_makes_no_passage_over_the_limit_and_none_empty(text: str, most: int, overlap: int) -> None:
    chunks = cut(text, fallback_title="t", count=count, most=most, overlap=overlap)
    assert all(0 < chunk.tokens <= most and count(chunk.text) <= most for chunk in chunks)
    assert all(chunk.text.strip() for chunk in chunks)


def test_bounds_title_and_text_together() -> None:
    text = "# " + "long title " * 4 + "\n" + "One two three four. " * 20
    chunks = cut(text, fallback_title="t", count=count, most=30, whole=20)
    assert len(chunks) > 1
    assert all(count(chunk.title) + count(chunk.text) <= 20 for chunk in chunks)


def test_titles_passages_by_their_path_of_headings() -> None:
    text = "# Guide\nintro\n\n## Setup\nfirst\n\n### Linux\nsecond\n\n## Use\nthird"
    titles = [chunk.title for chunk in cut(text, fallback_title="file", count=count, most=50)]
    assert titles == ["Guide", "Guide › Setup", "Guide › Setup › Linux", "Guide › Use"]
    assert document_title(text, "file") == "Guide"
    assert document_title("no heading", "file") == "file"


def test_reads_underlined_headings_and_none_between_code_fences() -> None:
    text = "Guide\n=====\nintro\n\n```sh\n# a comment\n```\nafter\n\nPart\n----\nlast"
    chunks = cut(text, fallback_title="file", count=count, most=50)
    assert [(chunk.title, chunk.text) for chunk in chunks] == [
        ("Guide", "intro\n# a comment\nafter"),
        ("Guide › Part", "last"),
    ]


def test_says_a_heading_that_has_nothing_below_it() -> None:
    assert [chunk.text for chunk in cut("# A\n## B\n# C\n", fallback_title="f", count=count, most=9)] == ["B", "C"]


def test_keeps_list_items_and_code_on_their_lines() -> None:
    [chunk] = cut("Do:\n- one\n  more\n- two\n\n```\nif x:\n    y\n```", fallback_title="f", count=count, most=50)
    assert chunk.text == "Do:\n- one more\n- two\nif x:\n    y"


def test_repeats_whole_sentences_when_asked_to_overlap() -> None:
    text = "One two three. Four five six. Seven eight nine."
    chunks = cut(text, fallback_title="t", count=count, most=6, overlap=3)
    assert [chunk.text for chunk in chunks] == ["One two three. Four five six.", "Four five six. Seven eight nine."]


def test_ends_no_sentence_at_an_abbreviation() -> None:
    text = "Use a tool, e.g. Postgres or so. Then rest well."
    chunks = cut(text, fallback_title="t", count=count, most=7)
    assert [chunk.text for chunk in chunks] == ["Use a tool, e.g. Postgres or so.", "Then rest well."]


def test_cuts_a_word_that_is_too_long_by_itself() -> None:
    chunks = cut("x" * 100, fallback_title="t", count=len, most=30)
    assert "".join(chunk.text for chunk in chunks) == "x" * 100
    assert max(len(chunk.text) for chunk in chunks) <= 30


def test_is_not_fooled_by_a_tokenizer_that_counts_a_megabyte_as_one_word() -> None:
    chunks = cut("x" * 1_000_000, fallback_title="t", count=count, most=100)
    assert sum(len(chunk.text) for chunk in chunks) == 1_000_000
    assert max(len(chunk.text) for chunk in chunks) < 2_000


@pytest.mark.parametrize("overlap", [-1, 10, 11])
def test_refuses_an_overlap_that_never_ends(overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap"):
        cut("text", fallback_title="t", count=count, most=10, overlap=overlap)


def test_reads_html_as_text_with_headings_and_without_scripts() -> None:
    html = b"<head><title>x</title></head><h1>Big</h1><p>a &amp; b</p><script>evil()</script><ul><li>one</li></ul>"
    text = to_text("page.html", html)
    assert "# Big" in text
    assert "a & b" in text
    assert "- one" in text
    assert "evil" not in text


def test_keeps_the_spaces_of_html_and_a_body_whose_head_never_ends() -> None:
    text = to_text(
        "page.html", b"<head><title>x</title><body><p>Hello<b> world</b> and<i> all</i>.</p><pre>a\n  b</pre>"
    )
    assert "Hello world and all." in text
    assert "a\n  b" in text


def test_reads_source_code_without_taking_its_comments_for_headings() -> None:
    text = to_text("a.py", b"# Not a heading\nx = 1\n\n# Nor this\ny = 2\n")
    [chunk] = cut(text, fallback_title="a", count=count, most=50)
    assert (chunk.title, chunk.text) == ("a", "# Not a heading\nx = 1\n# Nor this\ny = 2")


def test_reads_text_in_utf_16_too() -> None:
    assert to_text("a.txt", "é".encode("utf-16")) == "é"


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("a.pdf", b"%PDF", "unsupported_file"),
        ("a.txt", b"caf\xe9", "invalid_file"),
        ("a.md", b"a\x00b", "invalid_file"),
        ("a.md", b" \n ", "invalid_file"),
        ("a.html", b"<script>x</script>", "invalid_file"),
    ],
)
def test_refuses_what_it_cannot_read_by_name(name: str, data: bytes, code: str) -> None:
    with pytest.raises(InvalidInput, match=name) as refused:
        to_text(name, data)
    assert refused.value.code == code


def test_makes_any_query_storable() -> None:
    assert storable("a\x00b\ud800c") == "a b?c"


def test_keeps_identifiers_whole_and_counts_them() -> None:
    found = compounds("Set autovacuum_naptime, runtime-config.html and WAL_level; autovacuum_naptime again")
    assert list(found.items()) == [("autovacuum_naptime", 2), ("runtime-config.html", 1), ("wal_level", 1)]
    assert compounds("a." * 2000 + "a") == {}
    assert quote("it's\\") == "'it''s\\\\'"
    assert tsvector_literal({"a_b": 2}, "A") == "'a_b':1A,2A"
