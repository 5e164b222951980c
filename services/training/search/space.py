"""The space of a search: which fields of the recipe vary and within what, and the recipe that a point of it means."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from services.training.errors import InvalidRecipe
from services.training.hyperparameters import RECIPE_FIELDS
from services.training.recipe import ONLY_ADAPTERS, Recipe
from services.training.search.errors import InvalidSpace

Value = float | int | str | bool
VALIDATIONS_A_RUN = 4
"""At least so many, evenly spaced: the rungs at which trials are compared are a quarter and half of a run."""


class Dimension(BaseModel):
    """One field: from `low` to `high` (both included, on a logarithmic scale with `log`), or one of `choices`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Value, ...] | None = None
    whole: bool = False
    """Only whole numbers; the recipe's field decides it."""

    @property
    def bounds(self) -> tuple[float, float]:
        """The ends of a range."""
        assert self.low is not None, "choices have no bounds"
        assert self.high is not None, "choices have no bounds"
        return self.low, self.high

    def ends(self) -> tuple[Value, ...]:
        """The values that decide whether all between them are allowed."""
        if self.choices is not None:
            return self.choices
        low, high = self.bounds
        return (int(low), int(high)) if self.whole else (low, high)

    def holds(self, value: Any) -> bool:
        if self.choices is not None:
            return value in self.choices
        low, high = self.bounds
        if not low <= value <= high:
            return False
        steps = (value - low) / self.step if self.step else 0.0
        return math.isclose(steps, round(steps), abs_tol=1e-9)


DEFAULT_SPACE: Mapping[str, Dimension] = {
    "learning_rate": Dimension(low=1e-4, high=4e-3, log=True),
    "rank": Dimension(choices=(4, 8, 16, 32, 64)),
    "batch_size": Dimension(choices=(4, 8, 16, 32)),
    "dropout": Dimension(low=0.0, high=0.3, step=0.05),
    # AdamW multiplies it by the learning rate: below 0.01 it does nothing in some hundred steps
    "weight_decay": Dimension(low=0.001, high=1.0, log=True),
    "epochs": Dimension(low=1, high=6, step=1),
    # the strength of augmentation: noise on the inputs, each time another
    "neftune_alpha": Dimension(low=0.0, high=10.0, step=2.5),
}
"""What a search varies when it is not told. Another field of the recipe joins by its name."""

_UNSEARCHABLE = {
    "tune": "it decides which other fields there are; search each by itself",
    "gradient_checkpointing": "it changes speed and memory, never the result",
    "objective": "it decides what the loss means, so losses could not be compared",
    "beta": "it scales the loss of dpo, so losses could not be compared",
    "max_length": "it decides which validation examples count, so losses could not be compared",
    "max_validation_examples": "it decides which validation examples count, so losses could not be compared",
    "validation_share": "it decides which validation examples count, so losses could not be compared",
    "evals_per_epoch": "a search sets it itself, so that trials are compared at the same points of their runs",
    "patience": "stopping early saves time and changes no loss before it",
    "train_share": "fewer examples are no setting; a lower share asks what more data would bring",
    "replay_ratio": "it guards what the validation loss does not measure, so a search would choose none",
    "leave_out_leaked": "training on validation examples lowers their loss and nothing else",
    "seed": "the best seed is luck, not a setting",
    "micro_batch_tokens": "it changes speed and memory, never the result",
    "save_steps": "it changes what a crash loses, never the result",
}
_SHAPE_OF_AN_ADAPTER = ("rank", "alpha", "targets", "rslora", "dora")
"""Decided by the adapter to continue from, where there is one."""


def default_space(base: Recipe, *, continued: bool) -> dict[str, Dimension]:
    """The default, without what says nothing here: an adapter's shape where one is continued, adapters' fields in full
    fine-tuning, noise under dpo.

    Learning rates lie around the base's own: from a tenth to four times.
    """
    settled: tuple[str, ...] = _SHAPE_OF_AN_ADAPTER if continued else ()
    if base.tune == "full":
        settled += ONLY_ADAPTERS
    if base.objective == "dpo":
        settled += ("neftune_alpha",)
    around = Dimension(low=base.learning_rate / 10, high=min(1.0, 4 * base.learning_rate), log=True)
    space = {**DEFAULT_SPACE, "learning_rate": around}
    return {name: one for name, one in space.items() if name not in settled}


def checked(space: Mapping[str, Mapping[str, Any]], base: Recipe, *, continued: bool) -> dict[str, Dimension]:
    """The space as dimensions; InvalidSpace names the field that cannot be searched, or not within this."""
    return {name: _dimension(name, given, base, continued=continued) for name, given in space.items()}


def trial_recipe(base: Recipe, params: Mapping[str, Value]) -> Recipe:
    """The recipe of one trial: the base with these values, and what follows from them.

    Where rank varies and alpha does not, alpha goes along so that the update's scale stays the base's; else a search
    over rank would be a second one over learning rate. The run is validated at least four times, evenly, and
    patience is lengthened by as much.
    """
    fields = base.model_dump() | dict(params)
    if "rank" in params and "alpha" not in params:
        scale = base.alpha / _divisor(base.rank, base.rslora)
        fields["alpha"] = scale * _divisor(fields["rank"], fields["rslora"])
    more = max(1, math.ceil(VALIDATIONS_A_RUN / (_sure_epochs(fields) * base.evals_per_epoch)))
    fields["evals_per_epoch"] = min(100, base.evals_per_epoch * more)
    if base.patience is not None:
        fields["patience"] = base.patience * more
    return Recipe.from_differences(fields)


def differences(recipe: Recipe) -> dict[str, Any]:
    """What a client gives as `recipe` to train the same again: what is not the default, and what would be `auto`."""
    # what one may leave out depends on `tune`, which has a learning rate of its own
    default = Recipe.from_differences({"tune": recipe.tune}).model_dump(mode="json") | {"tune": Recipe().tune}
    said = {name for name, value in default.items() if value != getattr(recipe, name)} | set(RECIPE_FIELDS.values())
    return {name: value for name, value in recipe.model_dump(mode="json").items() if name in said}


def changes(base: Recipe, other: Recipe) -> dict[str, dict[str, Any]]:
    """Every field in which two recipes differ: its value `from` the base and `to` the other."""
    before, after = base.model_dump(mode="json"), other.model_dump(mode="json")
    return {name: {"from": before[name], "to": after[name]} for name in before if before[name] != after[name]}


def base_point(space: Mapping[str, Dimension], base: Recipe) -> dict[str, Value]:
    """The base recipe's own values, where the space holds them: what is tried first."""
    return {name: getattr(base, name) for name, one in space.items() if one.holds(getattr(base, name))}


def _sure_epochs(fields: Mapping[str, Any]) -> float:
    """How many epochs' validations a run has at least, however many its examples are.

    One where `max_steps` may end it within its first epoch, whose validations are then spread over its steps
    (`Plan.validates_every`).
    """
    return 1.0 if fields["max_steps"] is not None else max(1.0, fields["epochs"])


def _divisor(rank: int, rslora: bool) -> float:
    return math.sqrt(rank) if rslora else float(rank)


def _dimension(name: str, given: Mapping[str, Any], base: Recipe, *, continued: bool) -> Dimension:
    where = f"space.{name}"
    field = Recipe.model_fields.get(name)
    if field is None:
        raise InvalidSpace(f"A recipe has no field {name!r}.", param=where)
    if name in _UNSEARCHABLE:
        raise InvalidSpace(f"{name} cannot be searched: {_UNSEARCHABLE[name]}.", param=where)
    if continued and name in _SHAPE_OF_AN_ADAPTER:
        raise InvalidSpace(f"{name} is decided by the adapter to continue from.", param=where)
    dimension = Dimension(**given, whole=field.annotation is int)
    _check_range(dimension, field.annotation, where)
    held = [_as_recipes_hold_it(name, value, base, where) for value in dimension.ends()]
    if dimension.choices is None:
        return dimension
    if len(set(held)) < len(held):
        raise InvalidSpace("Two of these choices are the same.", param=where)
    return dimension.model_copy(update={"choices": tuple(held)})


def _as_recipes_hold_it(name: str, value: Value, base: Recipe, where: str) -> Any:
    """What a recipe makes of the value: the text "2" of a client is the number of a field that counts."""
    try:
        return getattr(Recipe.from_differences(base.model_dump() | {name: value}), name)
    except InvalidRecipe as error:
        raise InvalidSpace(f"{value!r} is not allowed. {error.message}", param=where) from error


def _check_range(dimension: Dimension, kind: Any, where: str) -> None:
    if dimension.choices is not None:
        return
    if kind not in (int, float):
        raise InvalidSpace("This field is no number; give `choices`.", param=where)
    low, high = dimension.bounds
    if not all(math.isfinite(part) for part in (low, high, dimension.step or 1)):
        raise InvalidSpace("low, high and step must be finite numbers.", param=where)
    if dimension.whole and not all(float(part).is_integer() for part in (low, high, dimension.step or 1)):
        raise InvalidSpace("This field is a whole number; low, high and step must be too.", param=where)
    if low >= high:
        raise InvalidSpace("`low` must be below `high`.", param=where)
    if dimension.log and (low <= 0 or dimension.step is not None):
        raise InvalidSpace("A logarithmic scale needs a `low` above 0 and takes no `step`.", param=where)
