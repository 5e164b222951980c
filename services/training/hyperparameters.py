"""OpenAI's hyperparameters: from what a client asked to a recipe, `auto` chosen from the data, and back.

The rule for `auto`, where n is the number of training examples and the recipe itself says nothing:

- batch_size: the power of two nearest to n / 16, from 1 (with replay from 2) to 16, so that an epoch has at least
  sixteen steps where n allows it.
- n_epochs: as many as make 100 steps, from 3 to 10, because a small model needs some dozens of steps; past 2,000
  examples 6,000 / n, at least 1, because a large file needs no repetition. Of continued pretraining from 1 to 4: up to
  four times the same documents teach almost as much as new ones would (Muennighoff et al. 2023, arXiv:2305.16264).
- learning_rate_multiplier: the square root of batch_size / 16, at most 1: smaller batches take smaller steps, by Adam's
  square-root rule (Malladi et al. 2022, arXiv:2205.10287).
- beta: 0.1, the paper's own choice (arXiv:2305.18290).
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

from services.training.recipe import Recipe

RECIPE_FIELDS = {"n_epochs": "epochs", "batch_size": "batch_size", "learning_rate_multiplier": "learning_rate"}
"""OpenAI's names and the recipe's, for those that `auto` chooses from the data."""

_DEFAULT_LEARNING_RATE = {"supervised": Recipe().learning_rate, "dpo": 1e-4}
_DEFAULT_LEARNING_RATE["continued_pretraining"] = _DEFAULT_LEARNING_RATE["supervised"]
"""What a learning_rate_multiplier of 1 means. DPO's steps are smaller: its gradient pushes answers away without end."""

_LARGEST_BATCH = Recipe().batch_size
_WANTED_STEPS = 100
_FEWEST_EPOCHS, _MOST_EPOCHS = 3, 10
_MANY_EXAMPLES = 2_000
_MOST_DOCUMENT_EPOCHS = 4


def planned(recipe: Recipe, given: Mapping[str, float | str | None]) -> tuple[Recipe, list[str]]:
    """The recipe with the numbers that were given, and the names that wait for the data.

    A name waits when it was left to "auto" (or left out) and the recipe was not made with a value for it. An
    n_epochs in numbers is a promise: validation then stops nothing early, unless the recipe says so itself.
    """
    set_by_recipe = recipe.model_fields_set
    numbers = {name: value for name, value in given.items() if value is not None and value != "auto"}
    auto = [name for name, field in RECIPE_FIELDS.items() if name not in numbers and field not in set_by_recipe]
    changes: dict[str, Any] = {RECIPE_FIELDS.get(name, name): value for name, value in numbers.items()}
    unit = _DEFAULT_LEARNING_RATE[recipe.objective]
    if "learning_rate_multiplier" in numbers:
        changes["learning_rate"] = unit * float(numbers["learning_rate_multiplier"])
    elif "learning_rate_multiplier" in auto:
        changes["learning_rate"] = unit
    if "n_epochs" in numbers and "patience" not in set_by_recipe:
        changes["patience"] = None
    return Recipe.from_differences(recipe.model_dump() | changes), auto


def resolved(recipe: Recipe, auto: Collection[str], examples: int) -> Recipe:
    """The recipe with every waiting name chosen by the rule above; `examples` is how many are trained on."""
    batch_size = _batch_size(examples) if "batch_size" in auto else recipe.batch_size
    if recipe.replay_ratio:
        batch_size = max(2, batch_size)
    changes: dict[str, Any] = {"batch_size": batch_size}
    if "n_epochs" in auto:
        documents = recipe.objective == "continued_pretraining"
        epochs = _document_epochs(examples, batch_size) if documents else _epochs(examples, batch_size)
        changes["epochs"] = float(epochs)
    if "learning_rate_multiplier" in auto:
        multiplier = min(1.0, math.sqrt(batch_size / _LARGEST_BATCH))
        changes["learning_rate"] = _DEFAULT_LEARNING_RATE[recipe.objective] * multiplier
    return recipe.model_copy(update=changes)


def echoed(recipe: Recipe, auto: Collection[str] = ()) -> dict[str, float | str]:
    """The recipe in OpenAI's words; names that still wait for the data say "auto"."""
    multiplier = recipe.learning_rate / _DEFAULT_LEARNING_RATE[recipe.objective]
    words: dict[str, float | str] = {
        "n_epochs": int(recipe.epochs) if recipe.epochs.is_integer() else recipe.epochs,
        "batch_size": recipe.batch_size,
        "learning_rate_multiplier": round(multiplier, 6),
    }
    if recipe.objective == "dpo":
        words["beta"] = recipe.beta
    return words | dict.fromkeys(auto, "auto")


def _batch_size(examples: int) -> int:
    return int(min(_LARGEST_BATCH, max(1, 2 ** round(math.log2(max(1.0, examples / 16))))))


def _epochs(examples: int, batch_size: int) -> int:
    if examples > _MANY_EXAMPLES:
        return max(1, round(_FEWEST_EPOCHS * _MANY_EXAMPLES / examples))
    wanted = math.ceil(_WANTED_STEPS / math.ceil(examples / batch_size))
    return min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, wanted))


def _document_epochs(windows: int, batch_size: int) -> int:
    return max(1, min(_MOST_DOCUMENT_EPOCHS, math.ceil(_WANTED_STEPS / math.ceil(windows / batch_size))))
