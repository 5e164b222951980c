"""Choosing the next token of every row: greedy together, sampled rows each with their own random generator."""

from collections.abc import Sequence

import torch

from services.generation.answering import Sampling

_COLDEST = 1e-4
"""Below this temperature the division would overflow, and the likeliest token has all the mass anyway."""
_HEAD = 1024
"""The nucleus is nearly always within the likeliest few; sorting the whole vocabulary costs ten times as much."""


class RowSampler:
    """One request's sampling; its generator makes it independent of who else is in the batch."""

    def __init__(self, sampling: Sampling) -> None:
        self.greedy = sampling.temperature < _COLDEST
        self._temperature, self._top_p = sampling.temperature, sampling.top_p
        self._generator = torch.Generator()
        if sampling.seed is not None:
            self._generator.manual_seed(sampling.seed)
        else:
            self._generator.seed()

    def choose(self, logits: torch.Tensor) -> int:
        """A token from (V,) float32 logits by temperature and nucleus (Holtzman et al. 2020)."""
        probabilities = torch.softmax(logits / self._temperature, dim=-1)
        if self._top_p >= 1.0:
            return int(torch.multinomial(probabilities, 1, generator=self._generator))
        likeliest, tokens = probabilities.topk(min(_HEAD, len(probabilities)))
        if float(likeliest.sum()) < self._top_p:
            likeliest, tokens = probabilities.sort(descending=True)
        # keep the smallest set whose mass reaches top_p: a token stays if the mass before it is still below
        likeliest[likeliest.cumsum(0) - likeliest >= self._top_p] = 0
        return int(tokens[torch.multinomial(likeliest, 1, generator=self._generator)])


def next_tokens(logits: torch.Tensor, samplers: Sequence[RowSampler]) -> list[int]:
    """(B, V) logits → one token per row."""
    # `max` is five times as fast as `argmax` on bfloat16
    tokens: list[int] = logits.max(dim=-1).indices.tolist()
    for row, sampler in enumerate(samplers):
        if not sampler.greedy:
            tokens[row] = sampler.choose(logits[row].float())
    return tokens
