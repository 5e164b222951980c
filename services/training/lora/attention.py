"""Attention of a plain decoder with adapters: one product for query, key and value, and one function for the rest.

The library makes three products of the same input, turns queries and keys in nine operations, and leaves it to autograd
to add three gradients up. Results equal the library's to rounding. The gated layer's two products as one were tried
and gained nothing.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from services.training.lora.kernels import LoraProducts, PackedAttention
from services.training.lora.layers import LoraLinear

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class FusedAttention:
    """Stands for `forward` of a library attention module.

    Where the model is set to attend in another way than by our kernel, the library's own does.
    """

    def __init__(self, attention: Any, layers: Sequence[LoraLinear], implementation: str) -> None:
        self._module, self._library, self._implementation = attention, attention.forward, implementation
        self._adapters = [parameter for layer in layers for parameter in (layer.lora_a, layer.lora_b)]
        self._scale = layers[0].scale
        # one matrix, of which each layer's weight is a part: nothing is held twice
        self._weight = torch.cat([layer.weight for layer in layers])  # (outs, in)
        sizes = [len(layer.weight) for layer in layers]
        for layer, part in zip(layers, self._weight.split(sizes), strict=True):
            layer.weight = nn.Parameter(part, requires_grad=False)
        biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
        self._bias = torch.cat(biases) if biases else None
        self._heads, self._groups = (size // attention.head_dim for size in sizes[:2])

    def __call__(
        self,
        hidden_states: Tensor,  # (1, N, in)
        position_embeddings: tuple[Tensor, Tensor],  # (1, N, D) each
        attention_mask: Tensor,  # (1, 1, N, N)
        **more: Any,
    ) -> tuple[Tensor, None]:
        """Answers (1, N, out)."""
        module = self._module
        if module.config._attn_implementation != self._implementation:
            found: tuple[Tensor, None] = self._library(hidden_states, position_embeddings, attention_mask, **more)
            return found
        cos, sin = (each[0] for each in position_embeddings)
        projected = LoraProducts.apply(hidden_states[0], self._weight, self._bias, self._scale, *self._adapters)
        out = PackedAttention.apply(projected, cos, sin, attention_mask[0], self._heads, self._groups, module.scaling)
        return module.o_proj(out[None]), None


def fuse_attention(model: Any, implementation: str) -> None:
    """Have the attention modules whose adapters allow it compute so, while the model attends by that implementation."""
    for module in model.modules():
        attention = getattr(module, "self_attn", None)
        if attention is not None and (layers := _fitting(attention)):
            attention.forward = FusedAttention(attention, layers, implementation)


def _fitting(attention: Any) -> list[LoraLinear]:
    """The projections, if all have a plain adapter without dropout, none is in four bits, and no norm comes between
    them and the turning by position; else none."""
    found = (getattr(attention, name, None) for name in _PROJECTIONS)
    layers = [layer for layer in found if type(layer) is LoraLinear and layer.dropout == 0 and layer.four_bits is None]
    return layers if len(layers) == len(_PROJECTIONS) and not hasattr(attention, "q_norm") else []
