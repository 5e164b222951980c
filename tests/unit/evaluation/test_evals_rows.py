"""Rows of a data source: the schema that describes them, the lines they come in, and what they add up to."""

import io
import json
import re
from typing import Any

import pytest

from services.evaluation.errors import InvalidItem, InvalidItemSchema
from services.evaluation.evals import item_schemas, source
from services.evaluation.evals.domain import Entry, job_statuses, pass_rate, run_status
from services.evaluation.evals.item_schemas import Rows, check_schema
from services.evaluation.evals.source import from_lines

DRAFT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def doubling(keyword: str) -> dict[str, Any]:
    """Forty definitions that each ask for the next one twice: 2^40 steps."""
    steps = {f"a{n}": {keyword: [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)}
    return {"$ref": "#/$defs/a0", "$defs": steps | {"a40": {} if keyword == "allOf" else False}}


def lines(*found: Any) -> io.BytesIO:
    return io.BytesIO("\n".join(one if isinstance(one, str) else json.dumps(one) for one in found).encode())


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "strange"}, "item_schema.type is no JSON Schema"),
        ({"properties": {"n": {"minimum": "low"}}}, "item_schema.properties.n.minimum"),
        ({"type": "array"}, 'must be "object"'),
        ({"properties": {"n": {"pattern": "("}}}, "is not a 'regex'"),
        ({"properties": {"n": {"pattern": "a{e<=}"}}}, "does not compile"),
        ({"properties": {"n": {"patternProperties": {".": {}}}}}, "patternProperties is not supported"),
        ({"examples": [{"patternProperties": {".": {}}}]}, "patternProperties is not supported"),
    ],
)
def test_a_schema_that_rows_cannot_be_held_to_is_refused(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidItemSchema, match=re.escape(says)):
        check_schema(schema, param="item_schema")


def test_a_row_that_is_not_as_described_is_named_with_its_field() -> None:
    check_schema(SCHEMA, param="item_schema")
    rows = Rows(SCHEMA)
    rows.check({"n": 1}, name="row")
    with pytest.raises(InvalidItem, match=r"line 3: item\.n: 'x' is not of type 'integer'"):
        rows.check({"n": "x"}, name="line 3")


@pytest.mark.parametrize(
    ("schema", "item", "says"),
    [
        ({"$ref": "#"}, {}, "without end"),
        ({"properties": {"a": {"$ref": "http://127.0.0.1:9/schema"}}}, {"a": 1}, "nothing is fetched"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, {"a": 1}, "nothing is fetched"),
        ({"properties": {"a": {"pattern": "^(a|a)*$"}}}, {"a": "a" * 60 + "b"}, "too long to search"),
        ({"properties": {"a": {"$schema": DRAFT, "pattern": "^(a|a)*$"}}}, {"a": "a" * 60 + "b"}, "too long to search"),
        ({"properties": {"a": {"pattern": "^a+$"}}}, {"a": "b"}, "does not match"),
        (doubling("allOf"), {}, "takes too long to check this row"),
        (doubling("anyOf"), {}, "takes too long to check this row"),
        (doubling("oneOf"), {}, "takes too long to check this row"),
        (doubling("allOf") | {"unevaluatedProperties": False}, {"a": 1}, "takes too long to check this row"),
    ],
)
def test_a_schema_cannot_hold_up_or_reach_out(schema: dict[str, Any], item: dict[str, Any], says: str) -> None:
    check_schema(schema, param="item_schema")
    with pytest.raises(InvalidItem, match=re.escape(says)):
        Rows(schema).check(item, name="row")


def test_rows_share_the_time_that_an_order_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_schemas, "_ROW_SECONDS", 0.02)
    rows = Rows(doubling("allOf"), seconds=0.05)
    for says in ("make it simpler", "make it simpler", "bring the rows in a file", "bring the rows in a file"):
        with pytest.raises(InvalidItem, match=says):
            rows.check({}, name="row")


def test_many_wrong_and_long_values_cost_no_more_than_a_row_may() -> None:
    rows = Rows({"properties": {"a": {"anyOf": [{"type": "integer"}] * 3000}}})
    with pytest.raises(InvalidItem) as refused:
        rows.check({"a": "x" * 1_000_000}, name="row")
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("found", "unique"),
    [
        ([1, True, "1", None, [1], {"a": 1}], True),
        ([1, 1.0], False),
        ([{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}], False),
        ([{"n": number} for number in range(50_000)], True),
    ],
)
def test_unique_items_are_told_apart_as_json_schema_does(found: list[Any], unique: bool) -> None:
    rows = Rows({"properties": {"a": {"uniqueItems": True}}})
    if unique:
        rows.check({"a": found}, name="row")
    else:
        with pytest.raises(InvalidItem, match="non-unique"):
            rows.check({"a": found}, name="row")


def test_a_schema_too_big_to_check_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_schemas, "_SCHEMA_SECONDS", 0.02)
    with pytest.raises(InvalidItemSchema, match="make it smaller"):
        check_schema({"properties": {f"p{number}": {"type": "string"} for number in range(5000)}}, param="item_schema")


def test_lines_become_rows_and_blank_ones_are_left_out() -> None:
    found = from_lines(lines({"item": {"n": 1}}, "", {"item": {"n": 2}, "sample": {"output_text": "x"}}), Rows(SCHEMA))
    assert found == [Entry({"n": 1}), Entry({"n": 2}, {"output_text": "x"})]


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (lines(), "no rows"),
        (lines({"item": {"n": 1}}, "{"), "line 2 is no JSON"),
        (lines([1]), "line 1 is no object"),
        (lines({"item": 1}), "line 1 is no object"),
        (lines({"item": {"n": 1}, "sample": []}), '"sample" is no object'),
        (lines('{"item": {"n": NaN}}'), "NaN"),
        (lines("[" * 100_000), "line 1"),
        (io.BytesIO(b"\xff\xfe"), "line 1"),
        (lines("x" * (1 << 20) + "x"), "longer than"),
    ],
)
def test_a_line_that_is_no_row_is_named(found: io.BytesIO, says: str) -> None:
    with pytest.raises(InvalidItem, match=re.escape(says)):
        from_lines(found, Rows(SCHEMA))


def test_more_rows_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MOST_ITEMS", 2)
    with pytest.raises(InvalidItem, match="more than 2 rows"):
        from_lines(lines(*[{"item": {"n": n}} for n in range(3)]), Rows(SCHEMA))


def test_a_runs_status_is_its_jobs_in_openais_words() -> None:
    words = [run_status(job) for job in ("queued", "running", "succeeded", "failed", "cancelled", "paused")]
    assert words == ["queued", "in_progress", "completed", "failed", "canceled", "paused"]
    assert [job_statuses(word) for word in ("in_progress", "completed", "canceled")] == [  # type: ignore[arg-type]
        ["running"],
        ["succeeded"],
        ["cancelled"],
    ]


def test_a_pass_rate_has_wilsons_limits() -> None:
    assert pass_rate(0, 0) is None
    # Wilson (1927) for 8 of 10, by hand: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n) with z = 1.959964
    found = pass_rate(8, 2)
    assert found == {"mean": 0.8, "low": pytest.approx(0.4901625, abs=1e-6), "high": pytest.approx(0.9433178, abs=1e-6)}
    assert pass_rate(5, 0) == {"mean": 1.0, "low": pytest.approx(0.5655175, abs=1e-6), "high": 1.0}


@pytest.mark.parametrize("ref", ["#/title", "#/title/0", "#/title/foo", "#/required", "#/minProperties/a"])
def test_refuses_a_row_whose_schema_refers_to_what_is_no_schema(ref: str) -> None:
    schema = {"type": "object", "title": "t", "minProperties": 0, "required": ["a"], "properties": {"a": {"$ref": ref}}}
    with pytest.raises(InvalidItem, match="leads to no schema"):
        Rows(schema).check({"a": 1}, name="row 1")
