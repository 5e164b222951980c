"""The filter grammar: what is refused, and that values stay parameters."""

import pytest

from services.retrieval.errors import InvalidFilter
from services.retrieval.filters import to_sql
from services.retrieval.tables import VectorStoreFile


@pytest.mark.parametrize(
    "bad",
    [
        "text",
        {"key": "a", "value": 1},
        {"type": "like", "key": "a", "value": "b"},
        {"type": ["and"], "filters": []},
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


@pytest.mark.parametrize("kind", ["eq", "ne", "in"])
def test_puts_filter_values_into_parameters_only(kind: str) -> None:
    evil = "'; DROP TABLE passages; --"
    value = [evil] if kind == "in" else evil
    compiled = to_sql({"type": kind, "key": evil, "value": value}, VectorStoreFile.attributes).compile()
    assert "DROP" not in str(compiled)
