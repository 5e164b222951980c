"""Templates look variables up and compute nothing."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.evaluation.errors import InvalidTemplate, MissingVariable
from services.evaluation.evals.domain import Entry, scope
from services.evaluation.evals.item_schemas import SAMPLE_SCHEMA, whole
from services.evaluation.evals.templates import check, parse

SCOPE = {
    "item": {"q": "why?", "n": 5, "list": [{"name": "first"}, "second"], "nested": {"a-b": {"c": True}}, "none": None},
    "sample": {"output_text": "because", "choices": [{"message": {"content": "because"}}]},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("{{item.q}}", "why?"),
        ("{{ item.q }} {{sample.output_text}}!", "why? because!"),
        ("{{item.n}}{{item.nested.a-b.c}}{{item.none}}", "5truenull"),
        ("{{item.list.0.name}} {{item.list[1]}}", "first second"),
        ("{{sample.choices[0].message.content}}", "because"),
        ("{{item.nested}}", '{"a-b": {"c": true}}'),
        ("a } } { b", "a } } { b"),
        ("", ""),
    ],
)
def test_puts_values_where_their_names_stand(text: str, rendered: str) -> None:
    assert parse(text).render(SCOPE) == rendered


@pytest.mark.parametrize(
    "text",
    [
        "{{1 + 1}}",
        "{{item.q | upper}}",
        "{{item.__class__.__init__()}}",
        "{{item['q']}}",
        "{{item..q}}",
        "{{q}}",
        "{{}}",
        "{{item.list[x]}}",
        "{{item.list[0}}",
        "{{item.list]0[}}",
        "{{item.q",
        "{% if item %}{{ item.q if 1 }}",
        "{{item" + ".a" * 30 + "}}",
    ],
)
def test_refuses_what_is_no_path(text: str) -> None:
    with pytest.raises(InvalidTemplate):
        parse(text, param="here")


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("{{item.no}}", "no"),
        ("{{item.q.length}}", "length"),
        ("{{item.list.7}}", "7"),
        ("{{sample.output_json.x}}", "output_json"),
        ("{{item.__class__}}", "__class__"),
    ],
)
def test_says_which_step_is_not_there(text: str, step: str) -> None:
    with pytest.raises(MissingVariable, match=f"there is no '{step}'"):
        parse(text).render(SCOPE)


@given(st.text())
def test_text_without_variables_stays_as_it_is(text: str) -> None:
    text = text.replace("{{", "{")
    assert parse(text).render({}) == text


@pytest.mark.timeout(60)  # in quadratic time it would take minutes
def test_takes_a_template_of_many_variables_apart_in_one_pass() -> None:
    assert len(parse("{{item.a}} " * 200_000).variables) == 200_000


def test_an_answer_of_brackets_within_brackets_is_no_json() -> None:
    assert "output_json" not in scope(Entry({}, {"output_text": "[" * 100_000}), None)["sample"]


@given(st.text(), st.text())
def test_what_is_looked_up_is_never_read_as_a_template(value: str, around: str) -> None:
    around = around.replace("{", "")
    value += "{{item.secret}}"
    found = parse(around + "{{item.x}}" + around).render({"item": {"x": value, "secret": "told"}})
    assert found == around + value + around


@given(st.text())
def test_any_text_is_a_template_or_is_refused_by_name(text: str) -> None:
    with contextlib.suppress(InvalidTemplate):
        assert parse("{{" + text).variables


@given(JSON)
def test_a_value_that_is_no_string_is_rendered_as_json(value: Any) -> None:
    found = parse("{{item.x}}").render({"item": {"x": value}})
    assert found == value if isinstance(value, str) else json.loads(found) == value


OPEN = {"type": "object"}
CLOSED = {"type": "object", "properties": {"q": {"type": "string"}, "deep": OPEN}}
LISTED = {"type": "object", "properties": {"rows": {"type": "array", "items": CLOSED}}}


@pytest.mark.parametrize(
    ("schema", "text", "known"),
    [
        (CLOSED, "{{item.q}}", True),
        (CLOSED, "{{item.p}}", False),
        (CLOSED, "{{item.deep.anything}}", True),
        (OPEN, "{{item.p}}", True),
        (CLOSED | {"additionalProperties": True}, "{{item.p}}", True),
        (CLOSED | {"additionalProperties": False}, "{{item.p}}", False),
        ({"$ref": "#/$defs/a", "$defs": {"a": OPEN}}, "{{item.p}}", True),
        (LISTED, "{{item.rows[0].q}}", True),
        (LISTED, "{{item.rows[0].p}}", False),
        (CLOSED, "{{sample.output_text}}", True),
        (CLOSED, "{{sample.output_json.any.thing}}", True),
        (CLOSED, "{{sample.choices[0].message.content}}", True),
        (CLOSED, "{{sample.text}}", False),
    ],
)
def test_a_variable_is_refused_where_the_schema_tells_that_it_cannot_be(
    schema: dict[str, Any], text: str, known: bool
) -> None:
    def checked() -> None:
        check(parse(text), whole(schema, with_sample=True), of="Criterion 'c'", param="testing_criteria.0.input")

    if known:
        checked()
    else:
        with pytest.raises(InvalidTemplate, match="Criterion 'c'"):
            checked()


def test_templates_see_an_answer_as_the_sample_schema_says() -> None:
    sample = {"output": [{"role": "assistant", "content": '{"a": 1}'}], "model": "m", "finish_reason": "stop"}
    seen = scope(Entry({"q": 1}), sample)
    assert seen["sample"]["output_json"] == {"a": 1}
    assert set(seen["sample"]) <= set(SAMPLE_SCHEMA["properties"])
    assert scope(Entry({"q": 1}), None) == {"item": {"q": 1}}
    assert "output_json" not in scope(Entry({}, {"output_text": "no JSON"}), None)["sample"]
