"""The filter grammar: what is refused, and that values stay parameters."""

from typing import Any

import pytest

from services.retrieval.filters import to_sql
from services.retrieval.schemas import Search
from services.retrieval.tables import VectorStoreFile
from shared.errors import InvalidInput
from shared.live.bodies import read_body


def read(filters: Any) -> Any:
    return read_body(Search, {"query": "q", "filters": filters}).filters


@pytest.mark.parametrize(
    "bad",
    [
        "text",
        {"key": "a", "value": 1},
        {"type": "like", "key": "a", "value": "b"},
        {"type": ["and"], "filters": []},
        {"type": "gt", "key": "a", "value": "b"},
        {"type": "gt", "key": "a", "value": True},
        {"type": "in", "key": "a", "value": "b"},
        {"type": "eq", "key": "a", "value": ["b"]},
        {"type": "in", "key": "a", "value": list(range(257))},
        {"type": "and", "filters": []},
        {"type": "and", "filters": [{"type": "eq", "key": "a"}]},
        {"type": "and", "filters": [{"type": "eq", "key": "a", "value": 1}], "key": "a"},
        {"type": "eq", "key": "a", "value": {"b": 1}},
        {"type": "eq", "key": "a", "value": None},
        {"type": "eq", "key": 1, "value": 1},
        {"type": "lt", "key": "a", "value": float("inf")},
        {"type": "lt", "key": "a", "value": 10**400},
    ],
)
def test_refuses_filters_that_make_no_sense_and_names_the_place(bad: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(bad)
    assert refused.value.param is not None
    assert refused.value.param.startswith("filters")


def test_refuses_filters_that_nest_without_end() -> None:
    nested: dict[str, object] = {"type": "eq", "key": "a", "value": 1}
    for _ in range(20):
        nested = {"type": "or", "filters": [nested]}
    with pytest.raises(InvalidInput, match="deep"):
        read(nested)


def test_refuses_more_comparisons_than_a_query_should_have() -> None:
    many = {"type": "in", "key": "a", "value": list(range(256))}
    with pytest.raises(InvalidInput, match="1024 values"):
        read({"type": "or", "filters": [many] * 5})


@pytest.mark.parametrize("kind", ["eq", "ne", "in"])
def test_puts_filter_values_into_parameters_only(kind: str) -> None:
    evil = "'; DROP TABLE passages; --"
    value = [evil] if kind == "in" else evil
    compiled = to_sql(read({"type": kind, "key": evil, "value": value}), VectorStoreFile.attributes).compile()
    assert "DROP" not in str(compiled)
