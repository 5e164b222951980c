"""A base model in four bits, for QLoRA (Dettmers et al. 2023, arXiv:2305.14314): through bitsandbytes, if it is there.

The library quantises while the model is loaded. What it would compute afterwards we compute ourselves: its own layer
rewrites the weights in place once a CPU evaluates with it, and then trains wrongly. So a layer here keeps the packed
weights and makes them whole, in the model's type, for one product at a time, in the backward pass again.
"""

from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from services.training.quantisation import check_quantisation


class FourBits:
    """A frozen (out, in) matrix in nf4 with doubly quantised constants: half a byte a weight, and 0.127 bits more."""

    def __init__(self, packed: Tensor, state: Any) -> None:
        self._shape = state.shape
        # bitsandbytes 0.50 on a CPU reads matrices of some widths (32, 96) wrongly row by row; as one row, never
        self.packed, self._state = packed, copy(state)
        self._state.shape = torch.Size([self._shape.numel()])

    def whole(self) -> Tensor:
        """(out, in) in the type that the model computes with; a new tensor every time."""
        from bitsandbytes.functional import dequantize_4bit  # an optional dependency

        found: Tensor = dequantize_4bit(self.packed, self._state)
        return found.view(self._shape)

    @property
    def bytes(self) -> int:
        """What the weights and their constants take."""
        constants = (self._state.absmax, self._state.state2.absmax, self._state.state2.code, self._state.code)
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.packed, *constants))


class FourBitLinear(nn.Linear):
    """A frozen linear layer in four bits; `weight` is the packed matrix."""

    def __init__(self, loaded: Any) -> None:
        nn.Module.__init__(self)  # nn.Linear would make weights of its own
        self.in_features, self.out_features = loaded.in_features, loaded.out_features
        self.weight = nn.Parameter(loaded.weight.data, requires_grad=False)
        self.bias = loaded.bias
        self.four_bits = FourBits(self.weight.data, loaded.weight.quant_state)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (nn.Linear's own name)
        """input (…, in) to (…, out)."""
        product: Tensor = _FrozenProduct.apply(input, self.four_bits)
        return product if self.bias is None else product + self.bias


def loading_options(compute: torch.dtype) -> dict[str, Any]:
    """What transformers shall load the base with: nf4, its constants quantised too, products in `compute`."""
    check_quantisation()
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )
    return {"quantization_config": config}


def take_over(model: nn.Module) -> None:
    """Put our layers in the place of the library's."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ == "Linear4bit":
                setattr(parent, name, FourBitLinear(child))


class _FrozenProduct(torch.autograd.Function):
    """y = x Wᵀ, whose backward pass makes W whole again in place of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: FourBits) -> Tensor:
        ctx.weight = weight
        return x @ weight.whole().t()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] @ ctx.weight.whole(), None
