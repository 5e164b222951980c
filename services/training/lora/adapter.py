"""The LoRA adapter: put on a frozen model, saved and loaded in the layout that peft and vLLM read."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from services.training.errors import AdapterMismatch, InvalidRecipe
from services.training.lora.attention import fuse_attention
from services.training.lora.base_model import PACKED
from services.training.lora.layers import DoraLinear, LoraLinear, LoraShape
from services.training.recipe import Recipe

_PREFIX = "base_model.model."  # how peft names a wrapped model's modules


@dataclass(frozen=True)
class Adapter:
    """The trainable layers of a model, by module path."""

    layers: dict[str, LoraLinear]
    shape: LoraShape

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters under the names that peft saves them with."""
        for path, layer in self.layers.items():
            yield f"{_PREFIX}{path}.lora_A.weight", layer.lora_a
            yield f"{_PREFIX}{path}.lora_B.weight", layer.lora_b
            if isinstance(layer, DoraLinear):
                yield f"{_PREFIX}{path}.lora_magnitude_vector", layer.magnitude

    def optimised(self, name: str, recipe: Recipe) -> tuple[float, float]:
        """Learning rate as a multiple of the recipe's, and weight decay, of a parameter.

        LoRA+ (Hayou et al. 2024, arXiv:2402.12354) has A and the rest learn at different rates, DoRA's lengths with B
        as in peft. Those lengths do not decay: that would pull them to zero, not to the base.
        """
        rate = 1.0 if name.endswith(".lora_A.weight") else recipe.lora_plus_ratio
        return rate, 0.0 if name.endswith(".lora_magnitude_vector") else recipe.weight_decay

    def tensors(self) -> dict[str, Tensor]:
        """A copy of the weights, on the CPU in float32."""
        return {name: value.detach().to("cpu", copy=True) for name, value in self.named_parameters()}

    def kept(self) -> dict[str, Tensor]:
        """The same: adapters are saved in float32."""
        return self.tensors()

    def took_step(self) -> None:
        """Nothing to do: the layers compute with the parameters themselves."""

    def save(self, folder: Path, weights: dict[str, Tensor], base_model: str) -> None:
        """Write the weights in peft's layout."""
        save_for_peft(folder, self, weights, base_model)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over weights; AdapterMismatch unless names and shapes are exactly ours."""
        own = dict(self.named_parameters())
        wrong = sorted(own.keys() ^ tensors.keys()) or sorted(n for n in own if own[n].shape != tensors[n].shape)
        if wrong:
            raise AdapterMismatch(f"The adapter does not fit this base model: {wrong[0]} and {len(wrong) - 1} more.")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(tensors[name])


def attach(model: Any, recipe: Recipe, *, fuse: bool = True) -> Adapter:
    """Replace the targeted linear layers of `model` in place; new weights come from torch's global generator.

    `fuse` joins the matrices of attention where that is possible, outside the layers' own parameters.
    """
    layers, shape = {}, LoraShape.of(recipe)
    for path, linear in _targets(model, recipe.targets):
        layer = shape.layer(linear)
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, layer)
        layers[path] = layer
    if fuse and model.config._attn_implementation == PACKED:
        fuse_attention(model, PACKED)
    return Adapter(layers, shape)


def shape_of(folder: Path) -> dict[str, Any]:
    """The recipe fields that an adapter to continue from decides: rank, alpha, targets, and of which kind it is."""
    config = json.loads((folder / "adapter_config.json").read_text())
    if config.get("peft_type") != "LORA":
        raise AdapterMismatch("Only LoRA adapters can be continued from.", param="init_adapter")
    return {
        "rank": config["r"],
        "alpha": config["lora_alpha"],
        "rslora": bool(config.get("use_rslora")),
        "dora": bool(config.get("use_dora")),
        "targets": tuple(config["target_modules"]),
    }


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a saved adapter, as float32."""
    return {name: value.float() for name, value in load_file(folder / "adapter_model.safetensors").items()}


def save_for_peft(folder: Path, adapter: Adapter, weights: dict[str, Tensor], base_model: str) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json`; equal adapters give equal bytes."""
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    names = sorted({path.rpartition(".")[2] for path in adapter.layers})
    config = LoraConfig(
        r=adapter.shape.rank,
        lora_alpha=adapter.shape.alpha,
        lora_dropout=adapter.shape.dropout,
        use_rslora=adapter.shape.rslora,
        use_dora=adapter.shape.dora,
        target_modules=names,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_model,
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    # peft keeps the names in a set, whose order changes from process to process
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": names}, indent=2, sort_keys=True))


def _targets(model: Any, wanted: str | tuple[str, ...]) -> list[tuple[str, nn.Linear]]:
    head = model.get_output_embeddings()
    linears = [(p, m) for p, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head]
    if not linears:
        raise AdapterMismatch("The base model has no linear layer that takes an adapter.", param="recipe.targets")
    if isinstance(wanted, str):
        return linears
    names = {path.rpartition(".")[2] for path, _ in linears}
    unmatched = ", ".join(name for name in wanted if name not in names)
    if unmatched or not wanted:
        raise InvalidRecipe(
            f"targets asks for {unmatched or 'no layer'}, but the base model's linear layers are "
            f"{', '.join(sorted(names))}.",
            param="recipe.targets",
        )
    return [(path, linear) for path, linear in linears if path.rpartition(".")[2] in wanted]
