"""Which tensors an adapter of a given shape must have on a given base model, from the base's own headers."""

from collections.abc import Mapping
from pathlib import Path

from services.training.adapters.config import LoraShape
from services.training.adapters.errors import ConfigInvalid, TensorsMismatch
from services.training.adapters.header import MODEL_WIDTHS, TensorEntry, read_header, shown

_PREFIX = "base_model.model."
"""How peft names a wrapped model's modules."""
_MOST_MODEL_HEADER = 100 << 20
_NOT_ADAPTED = ("lm_head", "embed_out")


def base_tensors(model_dir: Path) -> dict[str, TensorEntry]:
    """Every tensor of a base model, by name, whichever of its files holds it."""
    found: dict[str, TensorEntry] = {}
    for path in sorted(model_dir.glob("*.safetensors")):
        with path.open("rb") as stream:
            found |= read_header(stream, path.stat().st_size, widths=MODEL_WIDTHS, most=_MOST_MODEL_HEADER)
    return found


def linear_layers(tensors: Mapping[str, TensorEntry]) -> dict[str, tuple[int, int]]:
    """Linear layers by module name, each (outputs, inputs); embeddings and the output head are never adapted."""
    found = {}
    for name, entry in tensors.items():
        module, _, kind = name.rpartition(".")
        last = module.rpartition(".")[2]
        if kind == "weight" and len(entry.shape) == 2 and "emb" not in last and last not in _NOT_ADAPTED:
            found[module] = (entry.shape[0], entry.shape[1])
    return found


def adapted_layers(layers: Mapping[str, tuple[int, int]], shape: LoraShape) -> dict[str, tuple[int, int]]:
    """The layers that the targets name, by peft's rule for lists; ConfigInvalid for a target that names none."""
    if shape.targets is None:
        return dict(layers)
    found: dict[str, tuple[int, int]] = {}
    for target in shape.targets:
        named = {name: size for name, size in layers.items() if name == target or name.endswith(f".{target}")}
        if not named:
            endings = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
            raise ConfigInvalid(
                f"target_modules names {shown(target)}, and the base model has no such linear layer to adapt. "
                f"It has {endings}.",
                param="config_file",
            )
        found |= named
    return found


def target_names(layers: Mapping[str, tuple[int, int]], adapted: Mapping[str, tuple[int, int]]) -> list[str]:
    """The shortest list of targets that names exactly `adapted`: last parts where they suffice, else whole names."""
    last = {name.rpartition(".")[2] for name in adapted}
    exact = all(name in adapted for name in layers if name.rpartition(".")[2] in last)
    return sorted(last if exact else adapted)


def check_tensors(entries: Mapping[str, TensorEntry], adapted: Mapping[str, tuple[int, int]], rank: int) -> None:
    """TensorsMismatch unless the file holds A and B of every adapted layer in the right shape, and nothing else."""
    wanted: dict[str, tuple[int, int]] = {}
    for module, (outputs, inputs) in adapted.items():
        wanted[f"{_PREFIX}{module}.lora_A.weight"] = (rank, inputs)
        wanted[f"{_PREFIX}{module}.lora_B.weight"] = (outputs, rank)
    unexpected, missing = sorted(entries.keys() - wanted.keys()), sorted(wanted.keys() - entries.keys())
    if unexpected or missing:
        what = [f"{len(unexpected)} are unexpected, the first is {shown(unexpected[0])}"] if unexpected else []
        what += [f"{len(missing)} are missing, the first is {missing[0]}"] if missing else []
        raise TensorsMismatch(
            f"Base model, target_modules and r call for {len(wanted)} tensors; the file has {len(entries)}: "
            f"{'; '.join(what)}.",
            param="weights_file",
        )
    for name, shape in wanted.items():
        if entries[name].shape != shape:
            raise TensorsMismatch(
                f"Tensor {name} has the shape {list(entries[name].shape)}; the base model and r call for "
                f"{list(shape)}.",
                param="weights_file",
            )
