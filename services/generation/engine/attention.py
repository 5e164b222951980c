"""Attention over grouped key-value heads without copying them for every query head.

The library's own path repeats keys and values to the number of query heads whenever there is a mask; with a batch of
long contexts that copy costs more than the attention.
"""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "uplift_grouped"


def grouped_attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_options: Any,
) -> tuple[torch.Tensor, None]:
    """query (B, Hq, Q, D), key and value (B, Hkv, T, D), mask bool (B, 1, Q, T) → (B, Q, Hq, D).

    Decoding one token (Q = 1) folds the query heads of a group into the query axis, where they share keys and values.
    """
    batch, heads, queries, width = query.shape
    groups = heads // key.shape[1]
    if queries == 1:
        folded = query.reshape(batch, key.shape[1], groups, width)
        found = scaled_dot_product_attention(folded, key, value, attn_mask=attention_mask, scale=scaling)
        return found.reshape(batch, 1, heads, width), None
    found = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=scaling, enable_gqa=groups > 1
    )
    return found.transpose(1, 2), None


def register() -> None:
    """Make the function known to the library under NAME."""
    AttentionInterface.register(NAME, grouped_attention)
