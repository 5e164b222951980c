"""The lines of a batch: which are requests, and what is wrong with the others."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.evaluation.batches import domain
from services.evaluation.batches.domain import Line, LineRefused, check, ending, parse

CHAT = "/v1/chat/completions"
GOOD: dict[str, Any] = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": "m", "messages": []}}


def raw(**changes: Any) -> bytes:
    return json.dumps({name: value for name, value in (GOOD | changes).items() if value is not ...}).encode()


def test_reads_a_request() -> None:
    assert parse(7, raw(), CHAT) == Line(7, "a", {"model": "m", "messages": []})
    assert parse(1, b"\xef\xbb\xbf" + raw(), CHAT).custom_id == "a"


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"[]", "invalid_json_line", None),
        (b"\xff", "invalid_json_line", None),
        (b'{"custom_id": NaN}', "invalid_json_line", None),
        (b"[" * 100_000, "invalid_json_line", None),
        (b"9" * 10_000, "invalid_json_line", None),
        (raw(custom_id=...), "missing_required_parameter", "custom_id"),
        (raw(body=...), "missing_required_parameter", "body"),
        (raw(colour="blue"), "unknown_parameter", "colour"),
        (raw(method="GET"), "invalid_method", "method"),
        (raw(url="/v1/embeddings"), "invalid_url", "url"),
        (raw(url=["x"]), "invalid_url", "url"),
        (raw(custom_id=""), "invalid_value", "custom_id"),
        (raw(custom_id=5), "invalid_value", "custom_id"),
        (raw(custom_id="nul\0"), "invalid_value", "custom_id"),
        (raw(custom_id="half \ud800"), "invalid_value", "custom_id"),
        (raw(body=[]), "invalid_value", "body"),
        (raw(body={}), "missing_required_parameter", "body.model"),
        (raw(body={"model": 5}), "missing_required_parameter", "body.model"),
    ],
)
def test_refuses_what_is_no_request_naming_line_and_field(line: bytes, code: str, param: str | None) -> None:
    with pytest.raises(LineRefused) as refused:
        parse(3, line, CHAT)
    problem = refused.value.problem
    assert (problem.code, problem.param, problem.line) == (code, param, 3)


@given(st.binary(max_size=60) | st.recursive(st.none() | st.text(), st.lists).map(json.dumps).map(str.encode))
def test_never_fails_in_another_way(line: bytes) -> None:
    with pytest.raises(LineRefused):
        parse(1, line, CHAT)


def test_counts_requests_and_skips_blank_lines() -> None:
    lines = [(1, raw()), (2, b"  "), (3, raw(custom_id="b", body={"model": "m"}))]
    found = check(lines, CHAT)
    assert (found.total, found.model, found.problems) == (2, "m", [])


def test_names_no_model_where_lines_name_several() -> None:
    found = check([(1, raw()), (2, raw(custom_id="b", body={"model": "other"}))], CHAT)
    assert found.model is None


def test_collects_the_problems_of_many_lines() -> None:
    found = check([(1, raw()), (2, raw()), (3, b"{"), (4, raw(custom_id="b"))], CHAT)
    assert [(problem.line, problem.code) for problem in found.problems] == [
        (2, "duplicate_custom_id"),
        (3, "invalid_json_line"),
    ]
    assert "line 1" in found.problems[0].message


def test_stops_at_a_hundred_problems() -> None:
    assert len(check(((number, b"{") for number in range(1, 500)), CHAT).problems) == 100


def test_refuses_too_many_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain, "MOST_LINES", 3)
    found = check(((number, raw(custom_id=str(number))) for number in range(1, 9)), CHAT)
    assert [problem.code for problem in found.problems] == ["too_many_tasks"]


def test_refuses_a_file_without_a_request() -> None:
    assert [problem.code for problem in check([(1, b"")], CHAT).problems] == ["empty_file"]


@pytest.mark.parametrize(
    ("batch", "job", "complete", "status", "code"),
    [
        ("finalizing", "succeeded", True, "completed", ""),
        ("finalizing", "succeeded", False, "expired", "batch_expired"),
        ("cancelling", "cancelled", False, "cancelled", "batch_cancelled"),
        ("cancelling", "succeeded", True, "cancelled", "batch_cancelled"),
        ("in_progress", "cancelled", False, "cancelled", "batch_cancelled"),
        ("in_progress", "failed", False, "failed", "batch_failed"),
        ("failed", "failed", False, "failed", ""),
    ],
)
def test_ends_as_its_state_and_its_job_say(batch: str, job: str, complete: bool, status: str, code: str) -> None:
    end = ending(batch, job, complete=complete)
    assert (end.status, end.code) == (status, code)
