"""Choosing the next token of every row: greedy together, others each by their own options and random generator."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from services.generation.answering import Sampling
from services.generation.engine.constraint import Constraint

_COLDEST = 1e-4
"""Below this temperature the division would overflow, and the likeliest token has all the mass anyway."""
_HEADS = (64, 1024)
"""The nucleus is nearly always within the likeliest few; finding 1024 costs five times as much, sorting all thirty."""
_SEEDS = 2**64


class Ranked(NamedTuple):
    """The model's own log-probability of the chosen token, and the likeliest tokens with theirs, best first."""

    logprob: float
    likeliest: list[tuple[int, float]]


class Chosen(NamedTuple):
    """A row's next token, ranked if the row asked for that."""

    token: int
    ranked: Ranked | None = None


class RowSampler:
    """One choice's sampling; its generator makes it independent of who else is in the batch."""

    def __init__(self, sampling: Sampling, *, choice: int = 0, constraint: Constraint | None = None) -> None:
        self.constraint = constraint
        self.top_logprobs = sampling.top_logprobs
        self._greedy = sampling.temperature < _COLDEST or sampling.top_p == 0
        self._temperature, self._top_p = sampling.temperature, sampling.top_p
        self._frequency, self._presence = sampling.frequency_penalty, sampling.presence_penalty
        self._bias = dict(sampling.logit_bias)
        self._penalises = bool(self._frequency or self._presence)
        self._offsets: torch.Tensor | None = None  # (V,) biases and penalties, made at the first token
        self._said: set[int] = set()
        self.plain = self._greedy and constraint is None and not self._bias and not self._penalises
        self._generator = torch.Generator()
        if sampling.seed is not None:
            self._generator.manual_seed((sampling.seed + choice) % _SEEDS)
        else:
            self._generator.seed()

    def choose(self, logits: torch.Tensor) -> int:
        """A token from (V,) float32 logits, which stay as they are."""
        adjusted = self._adjusted(logits)
        token = int(adjusted.max(dim=-1).indices) if self._greedy else self._draw(adjusted)
        if self._offsets is not None and self._penalises:
            self._offsets[token] -= self._frequency + (0.0 if token in self._said else self._presence)
            self._said.add(token)
        if self.constraint is not None:
            self.constraint.accept(token)
        return token

    def _adjusted(self, logits: torch.Tensor) -> torch.Tensor:
        """Biased, penalised for what was said already (the answer only, not the prompt), and held to the grammar."""
        if self._bias or self._penalises:
            if self._offsets is None:
                self._offsets = torch.zeros_like(logits)
                for token, bias in self._bias.items():
                    self._offsets[token] = bias
            logits = logits + self._offsets
        if self.constraint is not None:
            logits = logits.masked_fill(self.constraint.forbidden(), -torch.inf)
        return logits

    def _draw(self, logits: torch.Tensor) -> int:
        """By temperature and nucleus (Holtzman et al. 2020)."""
        probabilities = torch.softmax(logits / self._temperature, dim=-1)
        if self._top_p >= 1.0:
            return self._pick(probabilities)
        likeliest, tokens = self._head(probabilities)
        # keep the smallest set whose mass reaches top_p: a token stays if the mass before it is still below
        likeliest[likeliest.cumsum(0) - likeliest >= self._top_p] = 0
        return int(tokens[self._pick(likeliest)])

    def _head(self, probabilities: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The likeliest tokens, best first, as many as make up the nucleus."""
        for size in _HEADS:
            likeliest, tokens = probabilities.topk(min(size, len(probabilities)))
            if float(likeliest.sum()) >= self._top_p:
                return likeliest, tokens
        likeliest, tokens = probabilities.sort(descending=True)
        return likeliest, tokens

    def _pick(self, weights: torch.Tensor) -> int:
        """An index in proportion to its weight: where a number in (0, total] falls, so one of weight 0 never is."""
        ends = weights.cumsum(0)
        # `torch.multinomial` takes ten times as long on a vocabulary
        return int(torch.searchsorted(ends, (1 - torch.rand((), generator=self._generator)) * ends[-1]))


def next_tokens(logits: torch.Tensor, samplers: Sequence[RowSampler]) -> list[Chosen]:
    """(B, V) logits → one token per row. Rows that are greedy and nothing else share one pass and cost no more."""
    # `max` is five times as fast as `argmax` on bfloat16
    tokens: list[int] = logits.max(dim=-1).indices.tolist()
    for row, sampler in enumerate(samplers):
        if not sampler.plain:
            tokens[row] = sampler.choose(logits[row].float())
    return [
        Chosen(token, None if sampler.top_logprobs is None else rank(logits[row], token, sampler.top_logprobs))
        for row, (token, sampler) in enumerate(zip(tokens, samplers, strict=True))
    ]


def rank(logits: torch.Tensor, token: int, top: int) -> Ranked:
    """(V,) logits as the model gave them → log-probabilities of the token and of the `top` likeliest."""
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    values, tokens = logprobs.topk(min(top, len(logprobs)))
    return Ranked(float(logprobs[token]), list(zip(tokens.tolist(), values.tolist(), strict=True)))
