"""Full fine-tuning: every weight of the model is trained, and a whole model folder comes out."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from services.training.errors import AdapterMismatch
from services.training.lora.base_model import BaseModel
from services.training.lora.sharding import fits, gathered, scattered
from services.training.recipe import Recipe


class FullWeights:
    """All weights of a model, held in float32 and computed with in the model's own type.

    AdamW's small steps would vanish in bfloat16's 8 bits, so a model that computes in bfloat16 has a float32 copy of
    every weight, which the optimiser moves, and which the weights are rounded from after each step (Micikevicius et
    al. 2018, arXiv:1710.03740). Gradients go to the copy pack by pack, and so add up in float32 too.

    Of a model that is spread over several processes, each moves its part; copies of the weights are rank 0's alone.
    """

    def __init__(self, model: BaseModel) -> None:
        self._model, self._tokenizer = model.whole, model.tokenizer
        model.whole.requires_grad_(requires_grad=True)
        self._weights: dict[str, nn.Parameter] = dict(model.whole.named_parameters())
        self._masters = {name: _master(weight) for name, weight in self._weights.items()}

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What the optimiser moves, under the model's own names."""
        yield from self._masters.items()

    def optimised(self, name: str, recipe: Recipe) -> tuple[float, float]:
        """Learning rate as a multiple of the recipe's, and weight decay: none of norms and biases, as is the custom."""
        return 1.0, recipe.weight_decay if self._masters[name].ndim > 1 else 0.0

    def took_step(self) -> None:
        """Compute with the moved weights from now on."""
        with torch.no_grad():
            for name, weight in self._weights.items():
                if self._masters[name] is not weight:
                    weight.copy_(self._masters[name])

    def tensors(self) -> dict[str, Tensor]:
        """A copy of the weights, on the CPU in float32: what a run goes on from."""
        return {name: gathered(value.detach()).to("cpu", copy=True) for name, value in self._masters.items()}

    def kept(self) -> dict[str, Tensor]:
        """A copy of the weights on the CPU, in the type that they are saved in."""
        return {name: gathered(value.detach()).to("cpu", copy=True) for name, value in self._weights.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over weights; AdapterMismatch unless names and shapes are exactly ours."""
        own = self._masters
        wrong = sorted(own.keys() ^ tensors.keys()) or sorted(n for n in own if not fits(tensors[n], own[n]))
        if wrong:
            raise AdapterMismatch(f"The weights do not fit this base model: {wrong[0]} and {len(wrong) - 1} more.")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(scattered(tensors[name], value))
        self.took_step()

    def save(self, folder: Path, weights: dict[str, Tensor], base_model: str) -> None:
        """Write an ordinary Hugging Face folder, in the model's own type, that an engine can load: with tokenizer."""
        del base_model  # the folder stands for itself
        narrow = {name: weights[name].to(weight.dtype) for name, weight in self._weights.items()}
        self._model.save_pretrained(folder, state_dict=narrow)
        self._tokenizer.save_pretrained(folder)


def is_model_folder(folder: Path) -> bool:
    """Whether the folder holds a whole model, not an adapter."""
    return (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file()


def load_model_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a saved model folder, as float32."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            found |= {name: tensors.get_tensor(name).float() for name in tensors.keys()}  # noqa: SIM118  (not a dict)
    return found


def _master(weight: nn.Parameter) -> nn.Parameter:
    """The weight itself where it is float32, or else a copy that takes over its gradients as they come."""
    if weight.dtype == torch.float32:
        return weight
    master = nn.Parameter(weight.detach().float())

    def hand_over(narrow: Tensor) -> None:
        assert narrow.grad is not None
        if master.grad is None:
            master.grad = narrow.grad.float()
        else:
            master.grad.add_(narrow.grad)
        narrow.grad = None

    weight.register_post_accumulate_grad_hook(hand_over)
    return master
