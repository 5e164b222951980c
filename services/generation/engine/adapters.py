"""Many LoRA adapters on one set of base weights, each row of a batch with its own.

The low-rank matrices of all loaded adapters are concatenated, so that a batch with any mix of adapters costs two small
products per layer: `((x Aᵀ) ∘ mask) Bᵀ`, where the row's mask selects (and scales) its adapter's rank columns. A row
without an adapter has a mask of zeros, and a batch without adapters skips the products. Formula: Hu et al. 2021
(LoRA), α/r scaling, α/√r for rsLoRA. Rows of a DoRA adapter (arXiv:2402.09353) then have every output multiplied with
its gain, m / ‖W + s·B A‖, which is a constant once training is over. Checked against peft in tests/ml.
"""

import json
import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from services.generation.answering import AdapterRef
from services.generation.errors import UnsupportedAdapter

_PREFIX = "base_model.model."
_LARGEST = 1e6
"""No trained weight comes near; products beyond it could overflow."""
_LENGTHS = "magnitude_vector"
"""How peft names DoRA's m."""
_UNSUPPORTED = ("modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias", "megatron_config")


class RowMask:
    """What every layer reads of the batch's rows."""

    value: torch.Tensor | None = None
    """(B, 1, total rank), None when no row has an adapter."""
    turned: torch.Tensor | None = None
    """(B, adapters) 1 where the row has the adapter, None when no row's adapter has gains."""


class MultiLoraLinear(nn.Module):
    """A frozen linear layer with the concatenated low-rank matrices of every loaded adapter."""

    def __init__(self, base: nn.Linear, mask: RowMask) -> None:
        super().__init__()
        self.base = base
        self._mask = mask
        self.down: torch.Tensor | None = None  # (in, total rank)
        self.up: torch.Tensor | None = None  # (total rank, out)
        self.gains: torch.Tensor | None = None  # (adapters, out) DoRA's gains less one

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, T, in) → (B, T, out)
        found: torch.Tensor = self.base(x)
        if self._mask.value is None or self.down is None or self.up is None:
            return found
        found = found + ((x @ self.down) * self._mask.value) @ self.up
        if self._mask.turned is None or self.gains is None:
            return found
        moved = found if self.base.bias is None else found - self.base.bias
        return torch.addcmul(found, moved, (self._mask.turned @ self.gains)[:, None])


class AdapterPool:
    """Loads adapters at their first use and keeps the most recently used ones."""

    def __init__(self, model: nn.Module, *, most: int = 8) -> None:
        self._most = most
        self._mask = RowMask()
        self._dtype = next(model.parameters()).dtype
        self._layers = _wrap_linears(model, self._mask)
        self._loaded: OrderedDict[str, _Adapter] = OrderedDict()

    def ensure(self, wanted: Sequence[AdapterRef], in_use: set[str]) -> None:
        """Have these adapters ready; drops the least recently used beyond the limit, never one in use.

        Raises UnsupportedAdapter, and then nothing has changed.
        """
        missing = [ref for ref in dict.fromkeys(wanted) if ref.name not in self._loaded]
        loaded = [(ref.name, _load(ref, self._layers, self._dtype)) for ref in missing]
        for ref in wanted:
            if ref.name in self._loaded:
                self._loaded.move_to_end(ref.name)
        self._loaded.update(loaded)
        needed = in_use | {ref.name for ref in wanted}
        dropped = [name for name in self._loaded if name not in needed][: max(0, len(self._loaded) - self._most)]
        for name in dropped:
            del self._loaded[name]
        if loaded or dropped:
            self._rebuild()

    def select(self, rows: Sequence[str | None]) -> None:
        """Say which adapter each row of the next forward pass has."""
        self._mask.value = self._mask.turned = None
        if not any(rows):
            return
        mask = torch.zeros(len(rows), 1, sum(adapter.rank for adapter in self._loaded.values()), dtype=self._dtype)
        start = 0
        for name, adapter in self._loaded.items():
            for row, wanted in enumerate(rows):
                if wanted == name:
                    mask[row, 0, start : start + adapter.rank] = adapter.scaling
            start += adapter.rank
        self._mask.value = mask
        if any(self._loaded[name].gains for name in rows if name):
            chosen = [[float(row == name) for name in self._loaded] for row in rows]
            self._mask.turned = torch.tensor(chosen, dtype=self._dtype)

    def _rebuild(self) -> None:
        for name, layer in self._layers.items():
            parts = [adapter.matrices(name, layer, self._dtype) for adapter in self._loaded.values()]
            layer.down = torch.cat([down for down, _ in parts], dim=1).contiguous() if parts else None
            layer.up = torch.cat([up for _, up in parts], dim=0).contiguous() if parts else None
            gains = [adapter.gains.get(name) for adapter in self._loaded.values()]
            none = torch.zeros(layer.base.out_features, dtype=self._dtype)
            turned = any(gain is not None for gain in gains)
            layer.gains = torch.stack([none if gain is None else gain for gain in gains]) if turned else None


class _Adapter:
    """One adapter's matrices by layer name, and DoRA's gains less one, (out,) each."""

    def __init__(
        self,
        rank: int,
        scaling: float,
        pairs: dict[str, tuple[torch.Tensor, torch.Tensor]],
        gains: dict[str, torch.Tensor],
    ) -> None:
        self.rank, self.scaling, self.gains, self._pairs = rank, scaling, gains, pairs

    def matrices(self, name: str, layer: MultiLoraLinear, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """(in, rank) and (rank, out); zeros where the adapter leaves the layer alone."""
        if name in self._pairs:
            return self._pairs[name]
        base = layer.base
        return (
            torch.zeros(base.in_features, self.rank, dtype=dtype),
            torch.zeros(self.rank, base.out_features, dtype=dtype),
        )


def _wrap_linears(model: nn.Module, mask: RowMask) -> dict[str, MultiLoraLinear]:
    """Put a MultiLoraLinear around every linear layer but the output head."""
    wrapped: dict[str, MultiLoraLinear] = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and not name.endswith("lm_head"):
            parent, _, attribute = name.rpartition(".")
            layer = MultiLoraLinear(module, mask)
            setattr(model.get_submodule(parent), attribute, layer)
            wrapped[name] = layer
    return wrapped


def _load(ref: AdapterRef, layers: dict[str, MultiLoraLinear], dtype: torch.dtype) -> _Adapter:
    config = _read_config(ref)
    rank = _number(ref, config, "r")
    scaling = _number(ref, config, "lora_alpha") / (math.sqrt(rank) if config.get("use_rslora") else rank)
    wanted = {"A", "B", _LENGTHS} if config.get("use_dora") else {"A", "B"}
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in _read_weights(ref).items():
        layer, _, part = key.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".lora_")
        if layer not in layers or part not in wanted:
            raise UnsupportedAdapter(f"Adapter {ref.name} has weights {key}, which the base model has no place for.")
        _check(ref, key, tensor, _shape(layers[layer].base, int(rank), part))
        found.setdefault(layer, {})[part] = tensor
    single = next((layer for layer, parts in found.items() if parts.keys() != wanted), None)
    if single is not None:
        raise UnsupportedAdapter(f"Adapter {ref.name} has only some of the {len(wanted)} weights of {single}.")
    pairs = {
        layer: (parts["A"].T.to(dtype).contiguous(), parts["B"].T.to(dtype).contiguous())
        for layer, parts in found.items()
    }
    gains = {
        layer: _gains(layers[layer].base, parts, scaling).to(dtype)
        for layer, parts in found.items()
        if _LENGTHS in parts
    }
    return _Adapter(int(rank), scaling, pairs, gains)


def _gains(base: nn.Linear, parts: dict[str, torch.Tensor], scaling: float) -> torch.Tensor:
    """(out,) DoRA's m / ‖W + s·B A‖ - 1, in float32; less one, because bfloat16 is coarse near one."""
    weight = base.weight.detach().float() + scaling * parts["B"].float() @ parts["A"].float()
    return parts[_LENGTHS].float() / torch.linalg.vector_norm(weight, dim=1) - 1


def _read_weights(ref: AdapterRef) -> dict[str, torch.Tensor]:
    path = ref.folder / "adapter_model.safetensors"
    if not path.exists():
        raise UnsupportedAdapter(
            f"Adapter {ref.name}: there is no adapter_model.safetensors; pickles are never loaded."
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UnsupportedAdapter(f"Adapter {ref.name}: adapter_model.safetensors is damaged: {error}") from error


def _shape(base: nn.Linear, rank: int, part: str) -> tuple[int, ...]:
    return {"A": (rank, base.in_features), "B": (base.out_features, rank)}.get(part, (base.out_features,))


def _check(ref: AdapterRef, key: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    """What would break the batch for everyone in it is refused here: a row's mask cannot hide NaN or infinity."""
    if tuple(tensor.shape) != shape:
        raise UnsupportedAdapter(
            f"Adapter {ref.name}: {key} has the shape {tuple(tensor.shape)}; this base model and rank need {shape}."
        )
    if not bool((tensor.abs() < _LARGEST).all()):
        raise UnsupportedAdapter(f"Adapter {ref.name}: {key} has values that are not finite or beyond {_LARGEST:g}.")


def _number(ref: AdapterRef, config: dict[str, Any], name: str) -> float:
    found = config.get(name)
    if not isinstance(found, int | float) or not 0 < found < math.inf:
        raise UnsupportedAdapter(f"Adapter {ref.name}: adapter_config.json says {name} = {found!r}.")
    return float(found)


def _read_config(ref: AdapterRef) -> dict[str, Any]:
    path: Path = ref.folder / "adapter_config.json"
    if not path.exists():
        raise UnsupportedAdapter(f"Adapter {ref.name}: there is no adapter_config.json.")
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UnsupportedAdapter(f"Adapter {ref.name}: adapter_config.json is not JSON: {error}") from error
    if config.get("peft_type") != "LORA":
        raise UnsupportedAdapter(f"Adapter {ref.name} is of type {config.get('peft_type')!r}; LORA can be served.")
    used = [name for name in _UNSUPPORTED if config.get(name)]
    if used:
        raise UnsupportedAdapter(f"Adapter {ref.name} uses {', '.join(used)}, which this engine cannot serve yet.")
    return config
