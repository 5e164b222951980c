"""Cleaning text: idempotent, and blind to what does not matter only."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.data.normalise import answer_key, clean_text, comparison_key

thorough = settings(max_examples=60)


@thorough
@given(st.text())
def test_cleans_once_and_for_all(text: str) -> None:
    assert clean_text(clean_text(text)) == clean_text(text)


@thorough
@given(st.text())
def test_leaves_nothing_that_the_database_refuses(text: str) -> None:
    cleaned = clean_text(text)
    assert "\x00" not in cleaned
    assert unicodedata.is_normalized("NFC", cleaned)


@thorough
@given(st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters="‘’‚‛“”„‟"), max_size=60))
def test_keeps_every_letter_number_and_sign(text: str) -> None:
    assert clean_text(text) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("“read committed”", '"read committed"'),
        ("it’s", "it's"),
        ("a\u00a0b", "a b"),
        ("  a  b \r\n c\t\r\n", "a  b\n c"),
        ("if x:\n    y", "if x:\n    y"),
        ("e\u0301", "é"),
        ("zero\u200bwidth", "zerowidth"),
        ("5′ 7″ «x»", "5′ 7″ «x»"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_cleans_by_example(raw: str, cleaned: str) -> None:
    assert clean_text(raw) == cleaned


def test_compares_questions_by_their_words_and_answers_by_every_sign() -> None:
    assert comparison_key("What IS work_mem?") == comparison_key("what is  work_mem")
    assert comparison_key("What is work_mem?") != comparison_key("What is work mem?")
    assert answer_key("Co") != answer_key("CO")
    assert answer_key("-2") != answer_key("2")
    assert answer_key("a  b\n") == answer_key("a b")
