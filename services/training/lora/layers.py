"""The trainable layers: a frozen linear layer with a low-rank update (LoRA), or with one and a length (DoRA)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from services.training.lora.four_bits import FourBitLinear
from services.training.lora.kernels import LoraProduct
from services.training.recipe import Recipe


@dataclass(frozen=True)
class LoraShape:
    """What decides an adapter's arithmetic, beside the layers it sits on."""

    rank: int
    alpha: float
    dropout: float
    rslora: bool
    dora: bool

    @classmethod
    def of(cls, recipe: Recipe) -> "LoraShape":
        return cls(recipe.rank, recipe.alpha, recipe.dropout, recipe.rslora, recipe.dora)

    @property
    def scale(self) -> float:
        """What B A x is multiplied with: α/r, or α/√r (rsLoRA, Kalajdzievski 2023, arXiv:2312.03732)."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def layer(self, linear: nn.Linear) -> "LoraLinear":
        """A trainable layer in the place of `linear`."""
        return (DoraLinear if self.dora else LoraLinear)(linear, self)


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable low-rank update; B starts at zero, so training starts at the base."""

    def __init__(self, linear: nn.Linear, shape: LoraShape) -> None:
        super().__init__()
        rank = shape.rank
        self.weight, self.bias = linear.weight, linear.bias
        self.four_bits = linear.four_bits if isinstance(linear, FourBitLinear) else None
        self.lora_a = nn.Parameter(torch.empty(rank, linear.in_features, device=linear.weight.device))
        self.lora_b = nn.Parameter(torch.zeros(linear.out_features, rank, device=linear.weight.device))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.scale = shape.scale
        self.dropout = shape.dropout

    def forward(self, x: Tensor) -> Tensor:
        """x (…, in) to (…, out)."""
        return self._product(x, self.bias)

    def _product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        frozen = self.weight if self.four_bits is None else self.four_bits
        result: Tensor = LoraProduct.apply(x, frozen, bias, self.lora_a, self.lora_b, self.scale, dropout)
        return result

    def whole(self) -> Tensor:
        """The frozen weights (out, in), which QLoRA holds in four bits."""
        return self.weight if self.four_bits is None else self.four_bits.whole()


class DoraLinear(LoraLinear):
    """A low-rank update of the weights' directions, and a trained length for each of them.

    y = m / ‖W + s·B A‖ · (W x + s·B A x) + b, with one length m and one norm for every output (DoRA, Liu et al. 2024,
    arXiv:2402.09353). The norm is a constant of the backward pass, as in the paper's section 4.3. Dropout drops inputs
    of the low-rank path only.
    """

    _base_squares: Tensor

    def __init__(self, linear: nn.Linear, shape: LoraShape) -> None:
        super().__init__(linear, shape)
        squares = torch.linalg.vector_norm(self.whole(), dim=1, dtype=torch.float32).square_()
        self.register_buffer("_base_squares", squares, persistent=False)
        self.magnitude = nn.Parameter(self.norms())  # (out,)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, in) to (…, out)."""
        moved = self._product(x, None)
        # the gain less one: bfloat16 could not tell apart the gains of two steps, both near one
        gain = (self.magnitude / self.norms() - 1).to(moved.dtype)
        result = torch.addcmul(moved, moved, gain)
        return result if self.bias is None else result + self.bias

    @torch.no_grad()
    def norms(self) -> Tensor:
        """(out,) ‖W + s·B A‖ by row, by products of the rank's size alone: no matrix of W's size is made.

        ‖W + sBA‖² = ‖W‖² + 2s ⟨B, W Aᵀ⟩ + s² ⟨B, B A Aᵀ⟩, row by row.
        """
        a, b = self.lora_a, self.lora_b
        weight = self.whole()
        across = (weight @ a.to(weight.dtype).t()).float()  # (out, rank)
        within = b @ (a @ a.t())  # (out, rank)
        changed = (b * (2 * self.scale * across + self.scale**2 * within)).sum(1)
        return (self._base_squares + changed).clamp_min_(torch.finfo(torch.float32).tiny).sqrt_()
