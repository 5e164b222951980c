"""Choosing the next token of every row: greedy together, sampled rows each with their own random generator."""

from collections.abc import Sequence

import torch

from services.generation.answering import Sampling


class RowSampler:
    """One request's sampling; its generator makes it independent of who else is in the batch."""

    def __init__(self, sampling: Sampling) -> None:
        self.greedy = sampling.temperature == 0
        self._temperature, self._top_p = sampling.temperature, sampling.top_p
        self._generator = torch.Generator()
        if sampling.seed is not None:
            self._generator.manual_seed(sampling.seed)
        else:
            self._generator.seed()

    def choose(self, logits: torch.Tensor) -> int:
        """A token from (V,) float32 logits by temperature and nucleus (Holtzman et al. 2020)."""
        probabilities = torch.softmax(logits / self._temperature, dim=-1)
        if self._top_p < 1.0:
            ordered, indices = probabilities.sort(descending=True)
            # keep the smallest set whose mass reaches top_p: a token stays if the mass before it is still below
            ordered[ordered.cumsum(0) - ordered >= self._top_p] = 0
            probabilities = torch.zeros_like(probabilities).scatter_(0, indices, ordered)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


def next_tokens(logits: torch.Tensor, samplers: Sequence[RowSampler]) -> list[int]:
    """(B, V) logits → one token per row."""
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    for row, sampler in enumerate(samplers):
        if not sampler.greedy:
            tokens[row] = sampler.choose(logits[row].float())
    return tokens
