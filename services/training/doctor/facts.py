"""What the doctor knows of a run: its recipe, what it counted, and the curves that it recorded."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.training.doctor.forecast import Forecast, Point, forecast
from services.training.recipe import Recipe

FIRST = 5
"""Steps that say where a run began."""
Curve = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Validation:
    """One validation pass: mean losses of unseen and of learned examples, measured in the same way, in nats.

    A run that did not measure `train_loss` in this way has the mean of the steps before the pass in its place.
    """

    step: int
    epoch: float
    valid_loss: float
    valid_error: float
    """Standard error, 0 where it was not recorded."""
    train_loss: float
    train_error: float
    measured_alike: bool
    noise: float | None = None
    """How much dropout and NEFTune add to `train_loss`, on the same examples; None where it was not measured, or on
    too few to know how well."""
    noise_error: float = 0.0

    @property
    def gap(self) -> float:
        """How much worse unseen examples are than learned ones, in nats."""
        return self.valid_loss - self.train_loss

    @property
    def gap_error(self) -> float:
        """Its standard error."""
        return math.hypot(self.valid_error, self.train_error)


@dataclass(frozen=True)
class GeneralAbility:
    """Mean loss on general questions before and after, in nats per token, and the standard error of the change."""

    questions: int
    before: float
    after: float
    change_error: float | None


@dataclass(frozen=True)
class Facts:
    """All that the rules may look at. Curves have one value a step, from step 1."""

    recipe: Recipe
    losses: Curve
    rates: Curve
    norms: Curve
    validations: tuple[Validation, ...]
    total_steps: int
    train_examples: int
    validation_examples: int
    left_out: int
    longest: int
    leaked: int
    probed: GeneralAbility | None
    smaller: tuple[Point, ...]
    """Runs of the same recipe on smaller shares of the examples, where a learning curve was asked for."""
    ended: bool
    """Its own steps brought it to its end: all were made, or the loss exploded."""
    over: bool
    """It goes on no more: ended, cancelled or failed."""
    error_code: str | None

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        started: Mapping[str, Any],
        metrics: Iterable[Mapping[str, Any]],
        *,
        probed: Mapping[str, Any] | None = None,
        smaller: Iterable[Point] = (),
        ended: bool,
        over: bool | None = None,
        error_code: str | None = None,
    ) -> "Facts":
        """From the stored data of the start's event and of every step's; what an older run did not record is 0."""
        steps = list(metrics)
        losses = np.array([step["train_loss"] for step in steps], dtype=np.float64)
        return cls(
            recipe=recipe,
            losses=losses,
            rates=np.array([step["learning_rate"] for step in steps], dtype=np.float64),
            norms=np.array([step["gradient_norm"] for step in steps], dtype=np.float64),
            validations=tuple(_validations(steps, losses)),
            total_steps=int(started.get("total_steps", len(steps))),
            train_examples=int(started.get("train_examples", 0)),
            validation_examples=int(started.get("validation_examples", 0)),
            left_out=int(started.get("left_out", 0)),
            longest=int(started.get("longest", 0)),
            leaked=int(started.get("leaked", 0)),
            probed=None if probed is None else GeneralAbility(**probed),
            smaller=tuple(smaller),
            ended=ended,
            over=ended if over is None else over,
            error_code=error_code,
        )

    @property
    def best(self) -> Validation | None:
        """The pass whose weights are kept."""
        return min(self.validations, key=lambda found: found.valid_loss, default=None)

    @property
    def point(self) -> Point | None:
        """The run as a point of a learning curve."""
        best = self.best
        return None if best is None else Point(self.train_examples, best.valid_loss, best.valid_error)

    @property
    def forecast(self) -> Forecast | None:
        """What twice the examples would bring; None without runs on at least two smaller sizes."""
        return None if self.point is None else forecast([*self.smaller, self.point])

    @property
    def start_loss(self) -> float:
        """Before much was learned: the median of the first five steps' losses, as single batches differ."""
        return float(np.median(self.losses[:FIRST]))

    @property
    def smoothing_asks(self) -> float:
        """Nats of plain loss that label smoothing asks for: its target gives a known answer's token only 1 - s.

        Also the most that a model gives up anywhere by mixing a share s of the even distribution into its own.
        """
        return -math.log1p(-self.recipe.label_smoothing)


def _validations(steps: list[Mapping[str, Any]], losses: Curve) -> Iterable[Validation]:
    before = 0
    for place, step in enumerate(steps, start=1):
        if step.get("valid_loss") is None:
            continue
        alike = step.get("train_eval_loss")
        yield Validation(
            step=int(step["step"]),
            epoch=float(step["epoch"]),
            valid_loss=float(step["valid_loss"]),
            valid_error=float(step.get("valid_loss_error") or 0.0),
            train_loss=float(losses[before:place].mean()) if alike is None else float(alike),
            train_error=float(step.get("train_eval_loss_error") or 0.0),
            measured_alike=alike is not None,
            noise=None if step.get("train_eval_noise_error") is None else step.get("train_eval_noise"),
            noise_error=float(step.get("train_eval_noise_error") or 0.0),
        )
        before = place
