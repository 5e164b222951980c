"""Whether there is room for a run, told before the kernel's kill would tell it: for the weights, and for the packs."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from services.training.errors import DoesNotFit
from services.training.fit import gib
from services.training.lora import memory
from services.training.lora.base_model import computing_type, device_here
from services.training.lora.packing import Group, pack_size
from services.training.lora.ranks import ALONE, Ranks
from services.training.recipe import Recipe

_MOVED_BYTES = 4 + 8
"""Of a weight that is trained: its gradient and AdamW's two moments, in float32."""
_SMALLER = {
    "full": "Set tune: lora in the recipe, which trains an adapter and no copy of every weight",
    "lora": "Set tune: qlora in the recipe, the base in four bits",
    "qlora": "Choose a smaller base model",
}


def check_weights(folder: Path, recipe: Recipe, most_bytes: int | None, ranks: Ranks = ALONE) -> None:
    """DoesNotFit, before anything is loaded, where the weights alone take more than there is, for any of the ranks.

    `most_bytes` is a limit besides what the machine has. Every rank has to come.
    """
    device = device_here()
    limit = memory.limit_bytes(device)
    limits = [one for one in (limit, most_bytes) if one is not None]
    needed = least_bytes(folder, recipe, computing_type(device))
    too_much = bool(limits) and needed > min(limits)
    if ranks.sum([float(too_much)])[0]:
        raise DoesNotFit(
            f"The weights alone would take {gib(needed)} of memory, and there are {gib(min(limits, default=0))} for "
            f"them. {_SMALLER[recipe.tune]}; or stop other work on this machine."
        )


def least_bytes(folder: Path, recipe: Recipe, dtype: torch.dtype) -> int:
    """Bytes that a model folder's weights take at least once they are loaded, and trained where all are."""
    weights = 0
    for path in _weights_files(folder):
        with safe_open(path, framework="pt") as tensors:
            weights += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    if recipe.tune == "qlora":
        return weights // 2
    if recipe.tune == "lora":
        return weights * dtype.itemsize
    copy = 0 if dtype == torch.float32 else 4  # the optimiser moves weights in float32
    return weights * (dtype.itemsize + copy + _MOVED_BYTES)


def _weights_files(folder: Path) -> list[Path]:
    """Those that transformers loads: a folder may hold the same weights in other layouts besides."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    return [path for path in (folder / "model.safetensors",) if path.is_file()]


@dataclass(frozen=True)
class Foreseen:
    """What the hardest pack would take, by two smaller ones that were computed."""

    bytes: int
    """Held when its loss is there, by the process as a whole."""
    seconds_per_token: float


def foresee(packs: Sequence[list[Group]], compute: Callable[[list[Group]], tuple[int, float]]) -> Foreseen | None:
    """What the largest of the packs would take; None where none is much smaller.

    `compute` answers what is held when a pack's loss is there and nothing is let go of yet (bytes), and how long the
    pack took (seconds). Activations grow with a pack's tokens, attention somewhat faster, so the truth is rather more.
    """
    largest = max(map(pack_size, packs))
    small, half = (_largest_within(packs, largest // parts) for parts in (4, 2))
    if small is None or half is None or pack_size(small) == pack_size(half):
        return None
    sizes = pack_size(small), pack_size(half)
    compute(small)  # what is made once and kept is not counted
    (held, _), (more, seconds) = compute(small), compute(half)
    a_token = max(0, more - held) / (sizes[1] - sizes[0])
    return Foreseen(int(more + a_token * (largest - sizes[1])), seconds / sizes[1])


def _largest_within(packs: Sequence[list[Group]], tokens: int) -> list[Group] | None:
    """The largest pack, or beginning of one, of at most so many tokens."""
    parts = [pack[:count] for pack in packs for count in range(1, len(pack) + 1)]
    within = [part for part in parts if pack_size(part) <= tokens]
    return max(within, key=pack_size, default=None)
