"""The key-value cache of a running batch: rows join, leave and grow without copying the whole cache at every token."""

import torch
from transformers.cache_utils import Cache, DynamicLayer

_SPARE = 64
"""Columns allocated ahead: a copy of the cache every 64 tokens instead of at every token."""


class SpareLayer(DynamicLayer):
    """A cache layer with room ahead. `keys` and `values` are views (B, H, T, D) of larger buffers."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:  # noqa: ARG002
        self.dtype, self.device = key_states.dtype, key_states.device
        batch, heads, _, width = key_states.shape
        self._buffers = [torch.empty(batch, heads, 0, width, dtype=self.dtype) for _ in range(2)]
        self._length = 0
        self._view()
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (B, H, n, D); answers all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self._length + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            self._reserve(end + _SPARE)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, self._length : end] = states
        self._length = end
        self._view()
        assert self.keys is not None and self.values is not None  # noqa: PT018
        return self.keys, self.values

    def keep(self, rows: torch.Tensor, drop_columns: int) -> None:
        """Only these rows, without the first columns (padding to all that stay)."""
        self._replace(*(buffer[rows, :, drop_columns : self._length] for buffer in self._buffers))

    def join(self, other: "SpareLayer") -> None:
        """Append the other's rows; the shorter side is padded on the left (its mask hides that)."""
        longest = max(self._length, other._length)
        ours, theirs = self._padded(longest), other._padded(longest)
        self._replace(*(torch.cat(pair) for pair in zip(ours, theirs, strict=True)))

    def _padded(self, length: int) -> list[torch.Tensor]:
        missing = length - self._length
        filled = [buffer[:, :, : self._length] for buffer in self._buffers]
        return [torch.nn.functional.pad(states, (0, 0, missing, 0)) for states in filled] if missing else filled

    def _replace(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self._buffers, self._length = [keys, values], keys.shape[-2]
        self._reserve(self._length + _SPARE)
        self._view()

    def _reserve(self, columns: int) -> None:
        grown = []
        for buffer in self._buffers:
            batch, heads, _, width = buffer.shape
            larger = torch.empty(batch, heads, columns, width, dtype=buffer.dtype)
            larger[:, :, : self._length] = buffer[:, :, : self._length]
            grown.append(larger)
        self._buffers = grown

    def _view(self) -> None:
        self.keys, self.values = (buffer[:, :, : self._length] for buffer in self._buffers)


def new_cache(layers: int) -> Cache:
    """An empty cache for a model of so many layers."""
    return Cache(layers=[SpareLayer() for _ in range(layers)])


def keep_rows(cache: Cache, rows: torch.Tensor, drop_columns: int) -> None:
    for layer in cache.layers:
        layer.keep(rows, drop_columns)


def join(cache: Cache, other: Cache) -> None:
    for layer, more in zip(cache.layers, other.layers, strict=True):
        layer.join(more)
