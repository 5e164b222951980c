"""What DPO's reference model thinks of every pair: computed once, before training, and kept beside the run's state."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from services.training.lora.base_model import BaseModel
from services.training.lora.objectives import Reference, evaluating, flat
from services.training.lora.packing import Group, pack, split_batch
from services.training.lora.scoring import log_likelihoods, score_pack

_NAME = "log_likelihoods"


def cached_reference(
    path: Path,
    *,
    identity: str,
    model: BaseModel,
    pairs: Sequence[Group],
    micro_batch_tokens: int,
    check: Callable[[], None],
    write: bool = True,
) -> Reference:
    """Log-likelihoods of the pairs under the model as it is now, or those of `path` if they are of this identity.

    Without `write`, somebody else writes them down.
    """
    distinct = list(dict.fromkeys(pairs))
    found = _read(path, identity)
    if found is None or len(found) != len(distinct):
        found = likelihoods(model, distinct, micro_batch_tokens, check)
        if write:
            partial = path.with_suffix(".partial")
            save_file({_NAME: found}, partial, metadata={"identity": identity})
            partial.rename(path)
    return {pair: (values[0], values[1]) for pair, values in zip(distinct, found.tolist(), strict=True)}


def likelihoods(
    model: BaseModel, pairs: Sequence[Group], micro_batch_tokens: int, check: Callable[[], None] = lambda: None
) -> Tensor:
    """(pairs, 2) log-likelihoods of preferred and rejected answers in nats; `check` may raise between passes."""
    found: dict[Group, Tensor] = {}
    with evaluating(model):
        for part in split_batch(pairs, micro_batch_tokens):
            check()
            packed = pack(flat(part))
            values = log_likelihoods(score_pack(model, packed), packed, 2 * len(part)).view(-1, 2).cpu()
            found.update(zip(part, values, strict=True))
    return torch.stack([found[pair] for pair in pairs])


def _read(path: Path, identity: str) -> Tensor | None:
    if not path.is_file():
        return None
    with safe_open(path, "pt") as kept:
        if (kept.metadata() or {}).get("identity") != identity:
            return None
        values: Tensor = kept.get_tensor(_NAME)
        return values
