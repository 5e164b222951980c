"""Loading a frozen base model in the type that this machine computes fastest, with our kernels where they fit."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer

from services.training.lora import four_bits
from services.training.lora.kernels import FrozenRMSNorm, packed_attention

PACKED = "uplift_packed"
_PLAIN_DECODERS = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Model types whose norm is x/rms·w and whose attention is a plain softmax: only there do our kernels stand in."""


class ForwardPass(nn.Module):
    """What every forward pass of a model is called through. It adds nothing; where the model is spread over several
    processes, embedding and head are fetched around it."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, compute: Callable[[], Tensor]) -> Tensor:
        """What `compute` answers."""
        return compute()


@dataclass(frozen=True)
class BaseModel:
    """A frozen model with its tokenizer; `network` answers hidden states, `head` turns them into logits, both only
    within a `forward_pass`."""

    network: nn.Module
    head: nn.Module
    whole: Any
    tokenizer: Any
    dtype: torch.dtype
    device: torch.device
    forward_pass: ForwardPass


def load_base(
    folder: Path, tune: Literal["lora", "qlora", "full"] = "lora", *, spread_later: bool = False
) -> BaseModel:
    """Load safetensors only, no remote code; every weight frozen until it is made trainable, `qlora` in four bits.

    With `spread_later` the weights wait in main memory, as the device may have no room for all of them.
    """
    device = device_here()
    dtype = computing_type(device)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    options = four_bits.loading_options(dtype) | {"device_map": {"": device}} if tune == "qlora" else {}
    whole = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="sdpa", use_safetensors=True, trust_remote_code=False, **options
    )
    if tune == "qlora":
        four_bits.take_over(whole)
    elif not spread_later:
        whole = whole.to(device)
    return prepare(whole, tokenizer, frozen=tune != "full", device=device)


def prepare(whole: Any, tokenizer: Any, *, frozen: bool = True, device: torch.device | None = None) -> BaseModel:
    """Freeze a loaded causal language model and put our kernels where they fit; one to be trained keeps its norms.

    It will compute on `device`; without one, where it is.
    """
    whole.requires_grad_(requires_grad=False)
    parameter = next(whole.parameters())
    device = device or parameter.device
    if whole.config.model_type in _PLAIN_DECODERS:
        if frozen:
            _replace_norms(whole)
        if device.type == "cpu":
            AttentionInterface.register(PACKED, packed_attention)
            whole.set_attn_implementation(PACKED)
    return BaseModel(
        network=whole.get_decoder(),
        head=whole.get_output_embeddings(),
        whole=whole,
        tokenizer=tokenizer,
        dtype=parameter.dtype,
        device=device,
        forward_pass=ForwardPass(whole),
    )


def device_here() -> torch.device:
    """Where a model is computed on this machine."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def computing_type(device: torch.device) -> torch.dtype:
    """The type that a model is loaded in and computed with."""
    return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products have instructions of their own here; emulated, they are slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported()
    return supported


def _replace_norms(model: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                weight, epsilon = child.weight, child.variance_epsilon
                assert isinstance(weight, nn.Parameter)
                assert isinstance(epsilon, float)
                setattr(parent, name, FrozenRMSNorm(weight, epsilon))
