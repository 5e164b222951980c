"""What the rules compare: parts of a run's loss curve, each with how far chance could have moved it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from services.training.doctor.facts import Curve, Facts

_FIRST = 5
"""Steps that say where a run began."""
_SURE_ENOUGH = 2.0
_TO_DEVIATION = 1.4826 / np.sqrt(2)
"""From the median size of a difference of two steps' losses to the standard deviation of one step's."""


@dataclass(frozen=True)
class Part:
    """The mean training loss of steps `first` to `last`, its standard error, and the learning rate spent before them.

    `spent` is the sum of the learning rates up to the part's middle: AdamW moves no weight further than that.
    """

    first: int
    last: int
    loss: float
    error: float
    spent: float


@dataclass(frozen=True)
class Levelling:
    """How far a curve has levelled off: nats that its end gained, and would have gained on a straight line."""

    late: float
    straight: float
    error: float
    """Standard error of `late` less half of `straight`."""

    @property
    def share(self) -> float:
        """1 is a straight line, 0 a level end."""
        return self.late / self.straight if self.straight > 0 else 1.0

    @property
    def certain(self) -> bool:
        """Whether the end gained, beyond chance, less than half of what it would have on a straight line."""
        return self.late - self.straight / 2 < -_SURE_ENOUGH * self.error


def parts(facts: Facts, count: int) -> list[Part]:
    """The run in parts of equal learning rate spent, so that a schedule's slow end does not look like a plateau."""
    spent = np.cumsum(facts.rates)
    cuts = np.searchsorted(spent, np.linspace(0, spent[-1], count + 1)[1:-1])
    return [_part(facts, spent, chosen) for chosen in np.split(np.arange(len(facts.losses)), cuts) if len(chosen)]


def levelling(facts: Facts) -> Levelling | None:
    """Over learning rate spent; None where there are too few steps to tell."""
    found = parts(facts, 3)
    if len(found) < 3:
        return None
    first, middle, last = found
    ratio = (last.spent - middle.spent) / (middle.spent - first.spent)
    # late - straight / 2 = middle · (1 + ratio / 2) - last - first · ratio / 2
    error = math.hypot(middle.error * (1 + ratio / 2), last.error, first.error * ratio / 2)
    return Levelling(middle.loss - last.loss, (first.loss - middle.loss) * ratio, error)


def gradient_collapse(facts: Facts) -> float:
    """The gradient norm's share of its first steps', over the loss's share: both medians.

    A run that learns has less gradient as it has less loss, and one that meets what cannot be known keeps every batch's
    own; where gradients vanish and the loss stays, the weights were thrown where nothing depends on them any more.
    """
    window = max(_FIRST, len(facts.losses) // 10)
    norms = np.median(facts.norms[-window:]) / np.median(facts.norms[:_FIRST])
    return float(norms / (np.median(facts.losses[-window:]) / np.median(facts.losses[:_FIRST])))


def rolling(facts: Facts) -> Iterator[Part]:
    """The mean of every tenth of the run (at least three steps), step by step."""
    window = max(3, len(facts.losses) // 10)
    spent = np.cumsum(facts.rates)
    for last in range(window, len(facts.losses) + 1):
        yield _part(facts, spent, np.arange(last - window, last))


def batch_noise(losses: Curve) -> float:
    """Standard deviation of a step's loss that comes from which examples are in its batch.

    From neighbouring steps' differences, which a trend hardly moves; their median, which single spikes hardly move.
    """
    return float(np.median(np.abs(np.diff(losses))) * _TO_DEVIATION) if len(losses) > 1 else 0.0


def _part(facts: Facts, spent: Curve, chosen: np.ndarray) -> Part:
    losses = facts.losses[chosen]
    noise = batch_noise(facts.losses[max(0, chosen[0] - 2) : chosen[-1] + 3])
    return Part(
        first=int(chosen[0]) + 1,
        last=int(chosen[-1]) + 1,
        loss=float(losses.mean()),
        error=noise / float(np.sqrt(len(losses))),
        spent=float(spent[chosen].mean()),
    )
