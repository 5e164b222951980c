"""Faster forms of what a frozen base model computes in training: linear layer with adapter, norm, attention.

Autograd over the library's modules spends more time on casts, saved copies and gradients of frozen weights than on
products. Each function here saves only what its backward pass needs. Results equal the library's to rounding.
"""

from typing import Any

import torch
from torch import Tensor, nn

from services.training.lora.four_bits import FourBits


class LoraProduct(torch.autograd.Function):
    """y = x Wᵀ + b + scale · drop(x) Aᵀ Bᵀ with W and b frozen (LoRA, arXiv:2106.09685).

    A and B stay float32 (AdamW's small updates would vanish in bfloat16's 8 bits) and are cast here, so that the
    products run in the base model's type.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (…, in)
        weight: Tensor | FourBits,  # (out, in)
        bias: Tensor | None,  # (out,)
        a: Tensor,  # (rank, in)
        b: Tensor,  # (out, rank)
        scale: float,
        dropout: float,
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        low, kept = (flat, None) if dropout == 0 else torch.native_dropout(flat, dropout, True)
        a_cast, b_cast = a.to(x.dtype), b.to(x.dtype)
        inner = low @ a_cast.t()  # (tokens, rank)
        whole = weight.whole() if isinstance(weight, FourBits) else weight
        y = flat @ whole.t() if bias is None else torch.addmm(bias, flat, whole.t())
        y.addmm_(inner, b_cast.t(), alpha=scale)
        # in four bits, the weights are made whole again in the backward pass: that is what saves memory
        ctx.four_bits, saved = (weight, None) if isinstance(weight, FourBits) else (None, weight)
        ctx.save_for_backward(low, kept, inner, saved, a_cast, b_cast)
        ctx.scale, ctx.dropout, ctx.shape = scale, dropout, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        low, kept, inner, weight, a, b = ctx.saved_tensors
        dy = grads[0].reshape(-1, grads[0].shape[-1])
        d_inner = (dy @ b).mul_(ctx.scale)  # (tokens, rank)
        d_a = (d_inner.t() @ low).float()
        d_b = (dy.t() @ inner).float().mul_(ctx.scale)
        if not ctx.needs_input_grad[0]:  # the first layer's input is the frozen embedding
            return None, None, None, d_a, d_b, None, None
        dx = dy @ (weight if ctx.four_bits is None else ctx.four_bits.whole())
        if kept is None:
            dx.addmm_(d_inner, a)
        else:
            dx.addcmul_(d_inner @ a, kept.to(dx.dtype), value=1 / (1 - ctx.dropout))
        return dx.view(ctx.shape), None, None, d_a, d_b, None, None


class _FrozenNorm(torch.autograd.Function):
    """RMSNorm (arXiv:1910.07467) with a frozen weight; moments in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        mean_square = torch.linalg.vecdot(wide, wide).div_(x.shape[-1])
        inverse = mean_square.add_(epsilon).rsqrt_().unsqueeze(-1)  # (…, 1)
        normal = (wide * inverse).to(x.dtype)
        ctx.save_for_backward(normal, inverse, weight)
        return normal * weight

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        normal, inverse, weight = ctx.saved_tensors
        wide = normal.float()
        d_normal = (grads[0] * weight).float()
        along = torch.linalg.vecdot(d_normal, wide).div_(-wide.shape[-1]).unsqueeze(-1)
        return d_normal.addcmul_(wide, along).mul_(inverse).to(normal.dtype), None, None


class FrozenRMSNorm(nn.Module):
    """Takes the place of a library RMSNorm whose weight is frozen."""

    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        super().__init__()
        self.weight = weight
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """x (…, width) to the same shape."""
        result: Tensor = _FrozenNorm.apply(x, self.weight, self.epsilon)
        return result


class _GroupedAttention(torch.autograd.Function):
    """Softmax attention over a pack; see `_attend`."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
        # q (1, H, N, D); k, v (1, G, N, D); bias (1, 1, N, N), 0 or -inf
        query = q.reshape(k.shape[1], -1, k.shape[3]) * scale  # (G, H/G·N, D)
        out, weights = _attend(query, k[0], v[0], bias[0])
        ctx.save_for_backward(query, k[0], v[0], weights)
        ctx.scale, ctx.shape = scale, q.shape
        return out.view(q.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        query, *rest = ctx.saved_tensors  # once: under gradient checkpointing they cannot be read again
        d_query, d_key, d_value = _attend_backward(grads[0].reshape(query.shape), query, *rest)
        return d_query.mul_(ctx.scale).view(ctx.shape), d_key[None], d_value[None], None, None


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax attention by plain batched products, key/value heads shared by groups of query heads; with its weights.

    query (G, H/G·N, D), already scaled; key, value (G, N, D); bias (1, N, N), 0 or -inf. On CPUs with matrix units this
    is quicker at pack lengths than the fused kernel, whose backward pass does not use them; the price is one saved
    (heads, N, N) matrix.
    """
    groups, length = key.shape[:2]
    scores = torch.bmm(query, key.transpose(1, 2)).view(-1, length, length)
    weights = scores.add_(bias).softmax(-1).view(groups, -1, length)
    return torch.bmm(weights, value), weights


def _attend_backward(
    d_out: Tensor, query: Tensor, key: Tensor, value: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the scaled query, key and value."""
    d_value = torch.bmm(weights.transpose(1, 2), d_out)
    d_weights = torch.bmm(d_out, value.transpose(1, 2))
    d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
    return torch.bmm(d_scores, key), torch.bmm(d_scores.transpose(1, 2), query), d_value


def packed_attention(
    _module: nn.Module,
    query: Tensor,  # (1, H, N, D)
    key: Tensor,  # (1, G, N, D)
    value: Tensor,  # (1, G, N, D)
    attention_mask: Tensor,  # (1, 1, N, N)
    scaling: float | None = None,
    **_ignored: Any,
) -> tuple[Tensor, None]:
    """The attention function registered with transformers; answers (1, N, H, D)."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out: Tensor = _GroupedAttention.apply(query, key, value, attention_mask, scale)
    return out.transpose(1, 2).contiguous(), None


class LoraProducts(torch.autograd.Function):
    """Several `LoraProduct`s of one input, without dropout and of one scale; their outputs side by side.

    All A lie one below the other and the B along a diagonal, so that the adapter too is two products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (tokens, in)
        weight: Tensor,  # (outs, in)
        bias: Tensor | None,  # (outs,)
        scale: float,
        *adapters: Tensor,  # A (rank, in) and B (out, rank) of each layer in turn
    ) -> Tensor:
        # cast anew every time: fused AdamW moves weights without counting up the version that a cache would look at
        a = torch.cat(adapters[::2]).to(x.dtype)  # (ranks, in)
        b = torch.block_diag(*[each.to(x.dtype) for each in adapters[1::2]])  # (outs, ranks)
        inner = x @ a.t()  # (tokens, ranks)
        y = x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())
        y.addmm_(inner, b.t(), alpha=scale)
        ctx.save_for_backward(x, inner, weight, a, b)
        ctx.scale, ctx.outs = scale, [len(each) for each in adapters[1::2]]
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, inner, weight, a, b = ctx.saved_tensors
        dy = grads[0]
        d_inner = (dy @ b).mul_(ctx.scale)  # (tokens, ranks)
        d_a = (d_inner.t() @ x).float()  # (ranks, in)
        d_b = inner.t() @ dy  # (ranks, outs), of which the blocks count
        rank = len(a) // len(ctx.outs)
        d_adapters, column = [], 0
        for d_low, d_high, out in zip(d_a.split(rank), d_b.split(rank), ctx.outs, strict=True):
            d_adapters += [d_low, d_high[:, column : column + out].t().float().mul_(ctx.scale)]
            column += out
        dx = (dy @ weight).addmm_(d_inner, a) if ctx.needs_input_grad[0] else None
        return dx, None, None, None, *d_adapters


class PackedAttention(torch.autograd.Function):
    """From query, key and value side by side to the heads' outputs side by side: turns queries and keys by their
    positions (RoPE, arXiv:2104.09864, halves as in the library) and attends."""

    @staticmethod
    def forward(
        ctx: Any,
        projected: Tensor,  # (N, (H + 2G)·D)
        cos: Tensor,  # (N, D)
        sin: Tensor,  # (N, D), both halves equal
        bias: Tensor,  # (1, N, N), 0 or -inf
        heads: int,
        groups: int,
        scale: float,
    ) -> Tensor:
        length, width = cos.shape
        split = projected.view(length, heads + 2 * groups, width)
        cosine, sine = cos[:, None], torch.cat([-sin[:, : width // 2], sin[:, width // 2 :]], -1)[:, None]
        turned = _turned(split[:, : heads + groups], cosine, sine)
        query = (turned[:, :heads].transpose(0, 1) * scale).reshape(groups, -1, width)  # (G, H/G·N, D)
        key, value = turned[:, heads:].transpose(0, 1), split[:, heads + groups :].transpose(0, 1)
        key, value = key.contiguous(), value.contiguous()
        out, weights = _attend(query, key, value, bias)
        ctx.save_for_backward(cosine, sine, query, key, value, weights)
        ctx.sizes, ctx.scale = (length, heads, width), scale
        return out.view(heads, length, width).transpose(0, 1).reshape(length, -1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        cosine, sine, query, *rest = ctx.saved_tensors
        length, heads, width = ctx.sizes
        d_out = grads[0].view(length, heads, width).transpose(0, 1).reshape(query.shape)
        d_query, d_key, d_value = _attend_backward(d_out, query, *rest)
        d_turned = torch.cat([d_query.mul_(ctx.scale).view(heads, length, width), d_key]).transpose(0, 1)
        d_projected = torch.cat([_turned(d_turned, cosine, -sine), d_value.transpose(0, 1)], 1)
        return d_projected.view(length, -1), None, None, None, None, None, None


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """x (N, heads, D) turned; the first half of `sine` is negative, and turning by its opposite turns back."""
    return (x * cosine).addcmul_(x.roll(x.shape[-1] // 2, -1), sine)
