"""The cache of a running batch against one that copies everything."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generation.engine.cache import SpareLayer

steps = st.lists(
    st.one_of(
        st.tuples(st.just("grow"), st.integers(1, 90)),
        st.tuples(st.just("join"), st.integers(1, 5), st.integers(1, 200)),
        st.tuples(st.just("leave"), st.integers(0, 2**16)),
        st.tuples(st.just("repeat"), st.lists(st.integers(0, 20), min_size=1, max_size=6)),
    ),
    max_size=12,
)


class Rows:
    """The plain truth: every row's own columns (H, T, D), nothing shared."""

    def __init__(self) -> None:
        self.found: list[torch.Tensor] = []
        self.number = 0.0

    def new(self, rows: int, columns: int) -> torch.Tensor:
        """(B, 1, T, 1) of numbers that never come twice."""
        start, self.number = self.number, self.number + rows * columns
        return torch.arange(start, self.number).reshape(rows, 1, columns, 1)

    def leave(self, bits: int) -> tuple[int, list[tuple[int, int]]]:
        """Who stays (at least one), as the batch says it to the cache."""
        places = [index for index in range(len(self.found)) if bits >> index & 1] or [0]
        holes = sorted(set(range(len(places))) - set(places))
        moves = list(zip(holes, places[len(places) - len(holes) :], strict=True))
        kept = self.found[: len(places)]
        for hole, mover in moves:
            kept[hole] = self.found[mover]
        self.found = kept
        return len(places), moves


def prefilled(states: torch.Tensor) -> SpareLayer:
    layer = SpareLayer()
    layer.update(states, -states)
    return layer


@settings(max_examples=60)
@given(steps)
def test_holds_every_rows_columns_whatever_joins_and_leaves(steps: list[Any]) -> None:
    truth = Rows()
    first = truth.new(2, 3)
    layer, truth.found = prefilled(first), list(first)
    for kind, *sizes in steps:
        if kind == "grow":
            for _ in range(sizes[0]):
                new = truth.new(len(truth.found), 1)
                layer.update(new, -new)
                truth.found = [torch.cat([row, more], dim=1) for row, more in zip(truth.found, new, strict=True)]
        elif kind == "join":
            new = truth.new(*sizes)
            layer.join(prefilled(new))
            truth.found += list(new)
        elif kind == "leave":
            before = max(row.shape[1] for row in truth.found)
            rows, moves = truth.leave(sizes[0])
            layer.keep(rows, moves, before - max(row.shape[1] for row in truth.found))
        else:
            chosen = [index % len(truth.found) for index in sizes[0]]
            layer.repeat(torch.tensor(chosen))
            longest = max(row.shape[1] for row in truth.found)
            truth.found = [truth.found[index] for index in chosen]
            layer.keep(len(chosen), [], longest - max(row.shape[1] for row in truth.found))
        assert layer.keys is not None
        assert layer.values is not None
        assert layer.keys.shape == (len(truth.found), 1, max(row.shape[1] for row in truth.found), 1)
        assert bool(torch.isfinite(layer.keys).all())
        for index, row in enumerate(truth.found):
            assert torch.equal(layer.keys[index, :, layer.keys.shape[2] - row.shape[1] :], row)
            assert torch.equal(layer.values[index, :, layer.keys.shape[2] - row.shape[1] :], -row)


def test_copies_only_the_row_that_takes_a_place() -> None:
    layer = prefilled(torch.randn(8, 2, 50, 4))
    buffer = layer._buffers[0]
    layer.keep(7, [(2, 7)], 10)
    assert layer._buffers[0] is buffer
    assert layer.keys is not None
    assert layer.keys.shape == (7, 2, 40, 4)
