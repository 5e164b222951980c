"""The quality report counts what is there."""

from services.data.domain import Example, Fractions, Message
from services.data.preparation import prepare


def ask(question: str, answer: str, line: int, *documents: str) -> Example:
    return Example((Message("user", question),), answer, documents, {"kind": "k"}, line=line)


def test_reports_repeats_conflicts_lengths_and_missing_documents() -> None:
    rows = [ask(f"question about thing{n}x", "a" * (n + 1), n + 1, f"{n}.md") for n in range(10)]
    rows += [ask("Question about thing0x", "a", 11, "0.md"), ask("question about thing1x!", "other", 12)]
    rows += [ask("long " * 30, "a", 13)]
    report = prepare(rows, Fractions(), seed=0, long_chars=100).report
    assert (report["rows_read"], report["examples"]) == (13, 12)
    assert report["exact_duplicates"] == {"count": 1, "samples": [{"line": 11, "same_as_line": 1}]}
    (conflict,) = report["label_conflicts"]["samples"]
    assert conflict["lines"] == [2, 12]
    assert conflict["answers"] == ["aa", "other"]
    assert report["lengths"]["answer"] == {"min": 1, "p50": 5, "p95": 10, "max": 10, "mean": 5.1}
    assert report["too_long"] == {"count": 1, "limit_chars": 100, "lines": [13]}
    assert report["documents"] == {"distinct": 10, "examples_without": 2}
    assert sum(split["examples"] for split in report["splits"].values()) == 12
    assert report["leakage"]["clean"]
    assert any("2 of 12 examples name no gold document" in line for line in report["warnings"])


def test_warns_of_one_group_that_is_too_large() -> None:
    rows = [ask(f"item{n}x", "a", n, "handbook.md" if n < 20 else f"{n}.md") for n in range(30)]
    warnings = prepare(rows, Fractions(), seed=0).report["warnings"]
    assert any("20 of 30 examples belong to one group (handbook.md)" in line for line in warnings)
