"""What stays of a run whose loss went wrong: the newest weights that something speaks for, kept as a model."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from services.training.lora import states, whole_folders
from services.training.lora.explosion import limit
from services.training.lora.tuned import load_saved


def find(
    history: Sequence[Mapping[str, Any]], checkpoint_dir: Path, state: states.State | None
) -> tuple[int, dict[str, Tensor] | None] | None:
    """The step of the last good weights, with the weights themselves where only a state has them; None without any."""
    if state is not None:
        step = int(state.values["progress"]["step"])
        if not _good(history, step, state.tensors["weights"]):
            state = None
    for folder in whole_folders.newest_first(checkpoint_dir):
        kept = whole_folders.step_of(folder)
        if state is not None and kept < step:
            break
        if whole_folders.verifies(folder) and _good(history, kept, load_saved(folder)):
            return kept, None
    return None if state is None else (step, state.tensors["weights"])


def _good(history: Sequence[Mapping[str, Any]], step: int, weights: Mapping[str, Tensor]) -> bool:
    """Whether the weights after the step are finite and gave a loss that is neither wild nor infinite: the validation
    loss of the step, or else the training loss of the next one, which is measured before it changes anything."""
    if step > len(history) or not all(bool(torch.isfinite(value).all()) for value in weights.values()):
        return False
    loss = history[step - 1].get("valid_loss")
    if loss is None and step < len(history):
        loss = history[step]["train_loss"]
    return loss is not None and math.isfinite(loss) and loss <= limit([entry["train_loss"] for entry in history])
