"""What this machine's matrix products would allow, beside what a step reaches."""

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from services.training.lora.base_model import load_base
from services.training.recipe import Recipe

_SECONDS = 0.5


def lines(model_dir: Path, recipe: Recipe, computed_share: float, tokens_per_second: float) -> Iterator[str]:
    """Markdown: products per token, the machine's speed at them, the bound that follows.

    A frozen weight of n elements costs 2n operations a token forward and 2n backward (the gradient of its input only);
    attention, norms and the output head, which reads few tokens, come on top and are left out: it is an upper bound.
    """
    model = load_base(model_dir)
    head = model.whole.get_output_embeddings()
    linears = [m for m in model.whole.modules() if isinstance(m, nn.Linear) and m is not head]
    frozen = sum(m.weight.numel() for m in linears)
    trained = sum(recipe.rank * (m.in_features + m.out_features) for m in linears)
    operations = 4 * frozen + 6 * trained
    rate = _rate(linears, recipe.micro_batch_tokens, model.dtype)
    computed, bound = tokens_per_second * computed_share, rate / operations
    yield (
        f"Shared prefixes leave {computed_share:.0%} of the tokens to compute: {computed:.0f} a second. Products of "
        f"the frozen weights and the adapter take {operations / 1e6:.0f} million operations a token; at this machine's "
        f"{rate / 1e9:.0f} GFLOPS ({str(model.dtype).removeprefix('torch.')}, the model's own shapes, "
        f"{recipe.micro_batch_tokens} tokens) they alone would allow {bound:.0f} computed tokens a second. We reach "
        f"{computed / bound:.0%} of that."
    )


def _rate(linears: list[nn.Linear], tokens: int, dtype: torch.dtype) -> float:
    """Operations a second of products with one layer's worth of the model's weights, forward and to the input."""
    shapes = {tuple(m.weight.shape) for m in linears}
    weights = [torch.randn(shape, dtype=dtype) for shape in shapes]
    inputs = [torch.randn(tokens, weight.shape[1], dtype=dtype) for weight in weights]
    done, began = 0, time.perf_counter()
    with torch.inference_mode():
        while time.perf_counter() - began < _SECONDS:
            for x, weight in zip(inputs, weights, strict=True):
                y = x @ weight.t()
                y @ weight
                done += 4 * tokens * weight.numel()
    return done / (time.perf_counter() - began)
