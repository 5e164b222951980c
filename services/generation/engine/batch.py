"""The running batch: prefill newcomers, decode one token for every row, let the finished leave."""

import time
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from services.generation.answering import AdapterRef
from services.generation.engine.adapters import AdapterPool
from services.generation.engine.cache import join, keep_rows, new_cache, repeat_rows
from services.generation.engine.logprobs import ShownTokens
from services.generation.engine.sampling import Chosen, RowSampler, next_tokens
from services.generation.engine.stream import Stream
from services.generation.engine.text import IncrementalText

_LAST = torch.tensor([-1])
"""Picked by index, which copies the hidden states: the library's `1` slices them, and a product with a slice copies the
output head's weights once for every row, which cost more than half of a prefill."""


@dataclass(eq=False)
class Row:
    """One choice of a request in flight."""

    stream: Stream
    prompt: list[int]
    adapter: AdapterRef | None
    sampler: RowSampler
    text: IncrementalText
    max_tokens: int
    choice: int = 0
    deadline: float | None = None
    interactive: bool = True
    shown: ShownTokens | None = None
    """Only where log-probabilities were asked for."""
    completion: int = 0
    last_token: int = -1
    submitted: float = field(default_factory=time.monotonic)
    admitted: float = 0.0
    prefilled: float = 0.0

    @property
    def adapter_name(self) -> str | None:
        return self.adapter.name if self.adapter else None

    @property
    def prompt_id(self) -> int:
        return id(self.prompt)

    @property
    def prompt_length(self) -> int:
        return len(self.prompt)

    @property
    def final_length(self) -> int:
        return len(self.prompt) + self.max_tokens


class RunningBatch:
    """Rows with one shared cache, padded on the left. Not thread-safe: the engine's thread owns it."""

    def __init__(self, model: PreTrainedModel, adapters: AdapterPool) -> None:
        self._model, self._adapters = model, adapters
        self._cache: Cache | None = None
        self._mask = torch.zeros(0, 0, dtype=torch.bool)  # (B, T): which cache columns a row may see
        self.rows: list[Row] = []

    def prefill(self, newcomers: list[Row]) -> list[Chosen]:
        """Read the newcomers' prompts, add them to the batch; answers their first tokens.

        Choices of one request share their prompt, which is read once and copied in the cache. What cannot be read
        raises before the batch has changed.
        """
        readers, reader_of = _distinct(newcomers)
        longest = max(len(row.prompt) for row in readers)
        ids = torch.zeros(len(readers), longest, dtype=torch.long)  # (R, T)
        mask = torch.zeros(len(readers), longest, dtype=torch.bool)
        for index, row in enumerate(readers):
            ids[index, longest - len(row.prompt) :] = torch.tensor(row.prompt)
            mask[index, longest - len(row.prompt) :] = True
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        causal = torch.ones(longest, longest, dtype=torch.bool).tril()
        # a padding query may see itself: a row of nothing but "hidden" would turn into NaN
        seen = (mask[:, None, :] & causal) | torch.eye(longest, dtype=torch.bool)  # (R, T, T)
        cache = new_cache(self._model.config.num_hidden_layers)
        logits = self._forward(ids, positions, seen[:, None], cache, readers)
        if len(readers) < len(newcomers):
            logits, mask = logits[reader_of], mask[reader_of]  # (N, V), (N, T)
            repeat_rows(cache, reader_of)
        tokens = next_tokens(logits, [row.sampler for row in newcomers])
        self._join(newcomers, mask, cache)
        return tokens

    def decode(self) -> list[Chosen]:
        """One more token for every row."""
        assert self._cache is not None, "nothing to decode"
        ids = torch.tensor([[row.last_token] for row in self.rows])  # (B, 1)
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=True)
        positions = self._mask.long().sum(1, keepdim=True) - 1  # (B, 1)
        logits = self._forward(ids, positions, self._mask[:, None, None, :], self._cache, self.rows)
        return next_tokens(logits, [row.sampler for row in self.rows])

    def keep(self, staying: list[Row]) -> None:
        """Let everyone else leave: rows from the end take the places of those who do."""
        if len(staying) == len(self.rows):
            return
        if not staying:
            self._cache, self._mask, self.rows = None, torch.zeros(0, 0, dtype=torch.bool), []
            return
        kept = set(map(id, staying))
        places = [index for index, row in enumerate(self.rows) if id(row) in kept]
        holes = sorted(set(range(len(places))) - set(places))
        moves = list(zip(holes, places[len(places) - len(holes) :], strict=True))
        order = list(range(len(places)))
        for hole, mover in moves:
            order[hole] = mover
        self.rows = [self.rows[index] for index in order]
        mask = self._mask[order]
        padding = int(mask.any(0).long().argmax())  # columns that are padding to all who stay
        self._mask = mask[:, padding:]
        assert self._cache is not None
        keep_rows(self._cache, len(order), moves, padding)

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, cache: Cache, rows: list[Row]
    ) -> torch.Tensor:
        """The last position's logits (N, V)."""
        self._adapters.select([row.adapter_name for row in rows])
        found = self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=_LAST,
        )
        logits: torch.Tensor = found.logits[:, -1]
        return logits

    def _join(self, newcomers: list[Row], mask: torch.Tensor, cache: Cache) -> None:
        if self._cache is None:
            self._cache, self._mask, self.rows = cache, mask, list(newcomers)
            return
        join(self._cache, cache)
        columns = max(self._mask.shape[1], mask.shape[1])
        padded = [torch.nn.functional.pad(m, (columns - m.shape[1], 0)) for m in (self._mask, mask)]
        self._mask = torch.cat(padded)
        self.rows = [*self.rows, *newcomers]


def _distinct(rows: list[Row]) -> tuple[list[Row], torch.Tensor]:
    """One row of each prompt and adapter, and for every row (N,) the index of the one that reads for it."""
    found: dict[tuple[int, str | None], int] = {}
    readers: list[Row] = []
    reader_of = []
    for row in rows:
        key = (row.prompt_id, row.adapter_name)
        if key not in found:
            found[key] = len(readers)
            readers.append(row)
        reader_of.append(found[key])
    return readers, torch.tensor(reader_of)
