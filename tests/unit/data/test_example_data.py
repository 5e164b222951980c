"""The data sets that we ship: every answer stands in its document, every import is clean."""

from collections import Counter
from pathlib import Path

import pytest

from services.data.domain import Example, Fractions, sizes
from services.data.importers import read_examples
from services.data.preparation import prepare

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
DEMO = EXAMPLES / "postgresql_parameters"
ELEMENTS = EXAMPLES / "chemical_elements"


def load(path: Path) -> list[Example]:
    with path.open("rb") as source:
        return list(read_examples(source))


QUESTIONS = {DEMO: load(DEMO / "questions.jsonl"), ELEMENTS: load(ELEMENTS / "questions.csv")}


def text_of(folder: Path, example: Example) -> str:
    (document,) = example.documents
    return (folder / "documents" / document).read_text(encoding="utf-8")


def test_demo_has_the_counts_its_notice_names() -> None:
    kinds = Counter(example.kind for example in QUESTIONS[DEMO])
    assert kinds == {"type": 352, "default": 169, "set": 177}
    notice = (DEMO / "NOTICE.md").read_text()
    assert all(f"{kind} {count}" in notice for kind, count in kinds.items())
    assert f"{len(list((DEMO / 'documents').iterdir()))} documents" in notice


def test_demo_defaults_and_types_stand_in_their_documents() -> None:
    for example in QUESTIONS[DEMO]:
        text = text_of(DEMO, example)
        if example.kind == "default":
            assert example.answer in text, example
        if example.kind == "type":
            assert f"({example.answer})" in text, example


def test_demo_set_answers_shorten_their_documents_sentence() -> None:
    sentences = {
        "only at server start": "can only be set at server start",
        "only by superusers": "nly superusers",
        "only in postgresql.conf or on the server command line": "can only be set in the postgresql.conf file or on "
        "the server command line",
    }
    for example in QUESTIONS[DEMO]:
        if example.kind == "set":
            assert sentences[example.answer] in text_of(DEMO, example), example


def test_demo_answers_carry_no_leftovers_of_the_pattern_that_made_them() -> None:
    for example in QUESTIONS[DEMO]:
        assert not example.answer.startswith(("normally", "typically", "to ", "'", '"', "“")), example
        assert not example.answer.endswith((".", ",", " ", "'")), example


def test_element_answers_stand_in_their_documents() -> None:
    assert len(list((ELEMENTS / "documents").iterdir())) == 118
    for example in QUESTIONS[ELEMENTS]:
        assert example.answer.casefold() in text_of(ELEMENTS, example).casefold(), example


@pytest.mark.parametrize("folder", [DEMO, ELEMENTS], ids=["demo", "elements"])
@pytest.mark.parametrize("with_documents", [True, False])
def test_finds_no_duplicates_in_templated_questions(folder: Path, with_documents: bool) -> None:
    stripped = [Example(e.messages, e.answer, e.documents if with_documents else ()) for e in QUESTIONS[folder]]
    report = prepare(stripped, Fractions(), seed=0).report
    assert report["exact_duplicates"]["count"] == 0
    assert report["near_duplicates"]["pairs"] == 0


def test_demo_keeps_120_test_questions_over_all_kinds_and_no_document_straddles() -> None:
    made = prepare(QUESTIONS[DEMO], Fractions(), seed=0)
    assert sizes(made.placed)["test"] >= 120
    assert set(made.report["splits"]["test"]["kinds"]) == {"type", "default", "set"}
    assert made.report["leakage"]["clean"]
    assert made.report["warnings"] == []


def test_licence_stands_beside_the_demo() -> None:
    licence = (DEMO / "LICENSE").read_text()
    assert "PostgreSQL Global Development Group" in licence
    assert "The Regents of the University of California" in licence
    assert "NO OBLIGATIONS TO" in licence
