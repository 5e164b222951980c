"""Noise that training adds against overfitting: on input embeddings (NEFTune) and on targets (label smoothing)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from services.training.lora.packing import Pack
from services.training.recipe import Recipe


@dataclass(frozen=True)
class Noise:
    """How much of each; zeros are a plain forward pass."""

    neftune_alpha: float = 0.0
    label_smoothing: float = 0.0

    @classmethod
    def of(cls, recipe: Recipe) -> "Noise":
        return cls(recipe.neftune_alpha, recipe.label_smoothing)


NO_NOISE = Noise()


def embedding_noise(packed: Pack, embedded: Tensor, alpha: float) -> Tensor:
    """(1, N, width) uniform noise in ± alpha / √(L · width) (NEFTune, Jain et al. 2023, arXiv:2310.05914).

    A node of the trie is one place of every example that runs through it, and has one noise for them all: an example's
    own noise is independent from place to place, as in the paper; only that of its neighbours in the pack is the same
    where their tokens are. L is the length of the longest example through the node. Drawn on the CPU, whose generator
    a resumed run restores.
    """
    length, width = len(packed.input_ids), embedded.shape[-1]
    longest = np.where(packed.sees, packed.positions[:, None] + 1, 0).max(axis=0)  # (N,) over who sees the node
    bound = alpha / torch.from_numpy(longest * width).sqrt()  # (N,)
    noise = torch.rand(length, width).mul_(2).sub_(1).mul_(bound[:, None])
    return noise.to(embedded)[None]
