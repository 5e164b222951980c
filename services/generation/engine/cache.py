"""The key-value cache of a running batch: rows join, leave and grow without copying the whole cache.

Every row ends at the same column, so a shorter one begins further right. What lies before a row's first column, or
beyond the rows in use, is stale and hidden by the batch's mask; it is never uninitialised, since even a masked NaN
would spread through attention.
"""

from collections.abc import Sequence

import torch
from transformers.cache_utils import Cache, DynamicLayer

_SPARE = 128
"""Columns allocated ahead: a copy of the cache every so many tokens instead of at every token."""


class SpareLayer(DynamicLayer):
    """A cache layer with room for rows and columns. `keys` and `values` are views (B, H, T, D) of larger buffers."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:  # noqa: ARG002
        self.dtype, self.device = key_states.dtype, key_states.device
        batch, heads, _, width = key_states.shape
        self._buffers = [torch.empty(batch, heads, 0, width, dtype=self.dtype) for _ in range(2)]
        self._rows, self._begin, self._end = batch, 0, 0
        self._view()
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (B, H, n, D); answers all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        added = key_states.shape[-2]
        if self._end + added > self._buffers[0].shape[-2]:
            self._move(self._rows, self._length + added, begin=0)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[: self._rows, :, self._end : self._end + added] = states
        self._end += added
        self._view()
        assert self.keys is not None and self.values is not None  # noqa: PT018
        return self.keys, self.values

    def keep(self, rows: int, moves: Sequence[tuple[int, int]], drop_columns: int) -> None:
        """The first `rows` rows stay, once each `(hole, mover)` has put a row where one leaves.

        Nothing else is copied; `drop_columns` are padding to all that stay.
        """
        for buffer in self._buffers:
            for hole, mover in moves:
                buffer[hole, :, self._begin : self._end] = buffer[mover, :, self._begin : self._end]
        self._rows, self._begin = rows, self._begin + drop_columns
        self._view()

    def repeat(self, rows: torch.Tensor) -> None:
        """Copies of rows, by index, in place of what there was."""
        self._buffers = [buffer[rows] for buffer in self._buffers]
        self._rows = len(rows)
        self._view()

    def join(self, other: "SpareLayer") -> None:
        """Append the other's rows; the shorter side is padded on the left (its mask hides that)."""
        rows, length = self._rows + other._rows, max(self._length, other._length)
        if rows > self._buffers[0].shape[0] or length > self._end:
            self._move(1 << (rows - 1).bit_length(), length, begin=length - self._length)
        for buffer, more in zip(self._buffers, other._buffers, strict=True):
            theirs = more[: other._rows, :, other._begin : other._end]
            buffer[self._rows : rows, :, self._end - other._length : self._end] = theirs
        self._rows, self._begin = rows, self._end - length
        self._view()

    @property
    def _length(self) -> int:
        return self._end - self._begin

    def _move(self, rows: int, columns: int, *, begin: int) -> None:
        """Into buffers of so many rows and columns and some to spare, what is in use beginning at column `begin`."""
        length = self._length
        larger = []
        for buffer in self._buffers:
            _, heads, _, width = buffer.shape
            # zeros that nobody touches take no memory
            wider = torch.zeros(rows, heads, columns + _SPARE, width, dtype=buffer.dtype)
            wider[: self._rows, :, begin : begin + length] = buffer[: self._rows, :, self._begin : self._end]
            larger.append(wider)
        self._buffers, self._begin, self._end = larger, begin, begin + length

    def _view(self) -> None:
        self.keys, self.values = (buffer[: self._rows, :, self._begin : self._end] for buffer in self._buffers)


def new_cache(layers: int) -> Cache:
    """An empty cache for a model of so many layers."""
    return Cache(layers=[SpareLayer() for _ in range(layers)])


def keep_rows(cache: Cache, rows: int, moves: Sequence[tuple[int, int]], drop_columns: int) -> None:
    for layer in cache.layers:
        layer.keep(rows, moves, drop_columns)


def repeat_rows(cache: Cache, rows: torch.Tensor) -> None:
    for layer in cache.layers:
        layer.repeat(rows)


def join(cache: Cache, other: Cache) -> None:
    for layer, more in zip(cache.layers, other.layers, strict=True):
        layer.join(more)
