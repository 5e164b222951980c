"""What a search's trials tell together: how much each parameter matters, and where it is too weak, right, too strong.

A random forest learns validation and training loss from the trials' parameters. The path of one parameter is the
forest's mean prediction with that parameter held at a value and all others as they were in the trials (partial
dependence, Friedman 2001): trials vary everything at once, so the raw points alone would mix their effects.
Its out-of-bag R² says whether the parameters explain the loss at all; without that an importance is noise.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from sklearn.ensemble import RandomForestRegressor  # type: ignore[import-untyped]

from services.training.search.domain import Observation
from services.training.search.space import Dimension, Value

_TREES = 100
_BY_CHANCE = "The parameters do not explain the loss beyond chance: do not trust these importances."
_GRID = 9
_SPREADS = 2
"""A value is as good as the best within so many standard deviations of their difference between trees."""
_FEWEST = 8
_BEYOND_CHANCE = 0.1
"""An R² that losses without any cause reach in at most 1 of 20 searches, with 8 to 20 trials of 7 parameters."""

STRENGTHENS: Mapping[str, Literal[1, -1]] = {
    "dropout": 1,
    "weight_decay": 1,
    "label_smoothing": 1,
    "neftune_alpha": 1,
    "rank": -1,
    "epochs": -1,
    "learning_rate": -1,
}
"""Regularising parameters: whether a higher value (1) or a lower one (-1) ties the model more to where it began."""


def fewest_trials(space: Mapping[str, Dimension]) -> int:
    """With fewer complete trials nothing is said about parameters: chance alone would decide."""
    return max(_FEWEST, len(space) + 1)


def explain(
    space: Mapping[str, Dimension], observed: Sequence[Observation], importances: Mapping[str, float], *, seed: int
) -> dict[str, Any]:
    """Importances with what they are worth, and the path of every parameter that has an order."""
    points = np.array([[_coordinate(one, found.params[name]) for name, one in space.items()] for found in observed])
    valid = _forest(points, [found.valid_loss for found in observed], seed)
    train = _forest(points, [found.train_loss for found in observed], seed)
    explained = float(valid.oob_score_)
    return {
        "trials": len(observed),
        "explained": round(explained, 3),
        "parameters": [
            {"name": name, "importance": round(share, 4)}
            for name, share in sorted(importances.items(), key=lambda item: -item[1])
        ],
        "message": None if explained > _BEYOND_CHANCE else _BY_CHANCE,
        "paths": {
            name: _path(name, one, place, points, valid, train)
            for place, (name, one) in enumerate(space.items())
            if _ordered(one)
        },
    }


def too_few(space: Mapping[str, Dimension], complete: int) -> dict[str, Any]:
    """What is said instead of importances."""
    fewest = fewest_trials(space)
    message = f"{complete} complete trials are too few to tell what matters; {len(space)} parameters need {fewest}."
    return {"trials": complete, "explained": None, "parameters": [], "message": message, "paths": {}}


def all_equal(complete: int) -> dict[str, Any]:
    """What is said where no parameter can matter."""
    message = f"All {complete} complete trials have the same loss: nothing that was varied matters."
    return {"trials": complete, "explained": None, "parameters": [], "message": message, "paths": {}}


def _forest(points: np.ndarray, losses: Sequence[float], seed: int) -> RandomForestRegressor:
    forest = RandomForestRegressor(_TREES, oob_score=True, min_samples_leaf=2, random_state=seed, n_jobs=1)
    return forest.fit(points, np.array(losses))


def _path(
    name: str,
    one: Dimension,
    place: int,
    points: np.ndarray,
    valid: RandomForestRegressor,
    train: RandomForestRegressor,
) -> list[dict[str, Any]]:
    values = _grid(one)
    found = [_held(points, place, _coordinate(one, value), valid, train) for value in values]
    means = [mean for mean, _, _ in found]
    best = int(np.argmin(means))
    return [
        {
            "value": value,
            "valid_loss": round(mean, 5),
            "spread": round(spread, 5),
            "train_loss": round(learned, 5),
            "verdict": _verdict(
                name, place - best, mean - means[best] <= _SPREADS * math.hypot(spread, found[best][1])
            ),
        }
        for place, (value, (mean, spread, learned)) in enumerate(zip(values, found, strict=True))
    ]


def _held(
    points: np.ndarray, place: int, coordinate: float, valid: RandomForestRegressor, train: RandomForestRegressor
) -> tuple[float, float, float]:
    """Validation loss, its standard deviation between trees, and training loss with one parameter held."""
    held = points.copy()
    held[:, place] = coordinate
    trees = np.array([tree.predict(held).mean() for tree in valid.estimators_])  # [trees]
    return float(trees.mean()), float(trees.std()), float(train.predict(held).mean())


def _verdict(name: str, beyond: int, as_good: bool) -> str:
    """`right` as far as the forest can tell from the best; else which side of the best it lies on."""
    if as_good:
        return "right"
    if name == "learning_rate":
        return "too high" if beyond > 0 else "too low"
    if name not in STRENGTHENS:
        return "worse"
    return "too strong" if beyond * STRENGTHENS[name] > 0 else "too weak"


def _grid(one: Dimension) -> list[Value]:
    if one.choices is not None:
        return sorted(one.choices)  # ordered: all are numbers
    low, high = one.bounds
    if one.step is not None or one.whole:
        step = one.step or 1.0
        count = round((high - low) / step) + 1
        places = np.unique(np.linspace(0, count - 1, min(count, _GRID)).round())
        return [round(float(low + step * place), 10) for place in places]
    spaced = np.geomspace(low, high, _GRID) if one.log else np.linspace(low, high, _GRID)
    return [float(f"{value:.4g}") for value in spaced]


def _ordered(one: Dimension) -> bool:
    return one.choices is None or all(isinstance(v, int | float) and not isinstance(v, bool) for v in one.choices)


def _coordinate(one: Dimension, value: Value) -> float:
    """Where a value lies for the forest, which only asks for the order."""
    if one.choices is not None and not _ordered(one):
        return float(one.choices.index(value))
    return float(value)
