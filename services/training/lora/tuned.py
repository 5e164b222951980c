"""What a run trains: the one face of adapters and of whole models towards the loop."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from services.training.errors import AdapterMismatch, InvalidRecipe, wrong_start
from services.training.lora.adapter import Adapter, attach, load_weights
from services.training.lora.base_model import BaseModel
from services.training.lora.full import FullWeights, is_model_folder, load_model_weights
from services.training.lora.sharding import shard
from services.training.recipe import Recipe


class Tuned(Protocol):
    """Trainable weights of a model."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What the optimiser moves."""
        ...

    def optimised(self, name: str, recipe: Recipe) -> tuple[float, float]:
        """Learning rate of a parameter, as a multiple of the recipe's, and its weight decay."""
        ...

    def took_step(self) -> None:
        """The optimiser has moved the parameters."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """A copy of the weights on the CPU in float32, for a run to go on from."""
        ...

    def kept(self) -> dict[str, Tensor]:
        """A copy of the weights on the CPU as they are saved for use."""
        ...

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over weights."""
        ...

    def save(self, folder: Path, weights: dict[str, Tensor], base_model: str) -> None:
        """Write `kept` weights in the layout that the libraries load."""
        ...


def make_trainable(model: BaseModel, recipe: Recipe, start: Path | None = None, *, spread: bool = False) -> Tuned:
    """What the recipe tunes, put on the model; with the weights of `start` where a job continues from some.

    `spread` shards the model over the ranks; an adapter is small, and stays whole on every one.
    """
    tuned: Tuned
    if recipe.tune == "full":
        if spread:
            shard(model)  # before there are float32 copies, so that they are of a part too
        tuned = FullWeights(model)
    else:
        tuned = _attached(model, recipe, continues=start is not None, fuse=not spread)
        if spread:
            shard(model, beside=[parameter for _, parameter in tuned.named_parameters()])
    if start is not None:
        tuned.load(load_saved(start))
    return tuned


def _attached(model: BaseModel, recipe: Recipe, *, continues: bool, fuse: bool) -> Adapter:
    try:
        return attach(model.whole, recipe, fuse=fuse)
    except InvalidRecipe as error:
        if not continues:
            raise
        # the targets are the adapter's, not what the client wrote
        raise AdapterMismatch(f"The adapter to continue from: {error.message}", param="init_adapter") from error


def load_saved(folder: Path) -> dict[str, Tensor]:
    """The weights that a run saved for use, as float32."""
    return load_model_weights(folder) if is_model_folder(folder) else load_weights(folder)


def check_start(recipe: Recipe, start: Path) -> None:
    """AdapterMismatch where the weights to continue from are of another kind than the recipe tunes."""
    if is_model_folder(start) != (recipe.tune == "full"):
        raise wrong_start(recipe.tune)
