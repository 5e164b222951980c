"""A run's state on disk: what a broken-off run goes on from. Tensors are safetensors, all else JSON: no code is run."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from services.training.lora import whole_folders

_KEEP = 2


@dataclass(frozen=True)
class State:
    """Named groups of tensors (adapter, optimiser, …), the run's plain values, and what it ran with."""

    tensors: dict[str, dict[str, Tensor]]
    values: dict[str, Any]
    made_with: dict[str, str] = field(default_factory=dict)


def save(root: Path, step: int, state: State) -> Path:
    """Write the state of this step; all but the last two go."""

    def fill(folder: Path) -> None:
        for name, group in state.tensors.items():
            save_file({key: value.contiguous() for key, value in group.items()}, folder / f"{name}.safetensors")
        (folder / "state.json").write_text(json.dumps(state.values))

    return whole_folders.write(root, step, fill, keep=lambda steps: steps[:_KEEP], made_with=state.made_with)


def load_newest(root: Path) -> State | None:
    """The newest state whose files match its manifest; torn ones are passed over."""
    for folder in whole_folders.newest_first(root):
        if whole_folders.verifies(folder):
            tensors = {path.stem: load_file(path) for path in folder.glob("*.safetensors")}
            return State(tensors, json.loads((folder / "state.json").read_text()), whole_folders.made_with(folder))
    return None
