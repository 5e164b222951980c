"""What the rules compare: parts of a run's loss curve, each with how far chance could have moved it."""

import math
from dataclasses import dataclass

import numpy as np

from services.training.doctor.facts import FIRST, Curve, Facts

_SURE_ENOUGH = 2.0
_MEDIAN = math.sqrt(math.pi / 2)
"""Standard error of a median over that of a mean."""
_DRAWN = 2 / 3
"""Share of what noise adds' variance that is the draws', not the examples': as in thirty runs of the study's task."""
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


@dataclass(frozen=True)
class Added:
    """Nats that dropout and NEFTune add to the loss of learned examples, its standard error, and the steps after
    which that was measured."""

    loss: float
    error: float
    steps: tuple[int, int]


@dataclass(frozen=True)
class Left:
    """What is left to learn at the end, in nats and as a share of the start's loss, and the steps that say so."""

    loss: float
    share: float
    steps: tuple[int, int]


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


def left(facts: Facts) -> Left | None:
    """The loss of the last of three parts; of a smoothed run the plain loss beyond what smoothing asks for, and None
    until that was measured.

    The smoothed loss has a floor that no step can lower. The start has no plain loss, and its smoothed one is higher,
    so a smoothed run's share errs towards little being left.
    """
    if not facts.recipe.label_smoothing:
        last = parts(facts, 3)[-1]
        return Left(last.loss, last.loss / facts.start_loss, (last.first, last.last))
    if not facts.validations or not facts.validations[-1].measured_alike:
        return None
    validation = facts.validations[-1]
    loss = max(0.0, validation.train_loss - facts.smoothing_asks)
    return Left(loss, loss / facts.start_loss, (validation.step, validation.step))


def added_by_noise(facts: Facts) -> Added | None:
    """The mean over the second half of the validations; None where one of them did not measure it.

    Every validation draws noise of its own for the same examples, so only the draws' part of the variance averages out.
    """
    late = facts.validations[len(facts.validations) // 2 :]
    noises = [one.noise for one in late if one.noise is not None]
    if not late or len(noises) < len(late):
        return None
    one_alone = sum(one.noise_error**2 for one in late) / len(late)
    error = math.sqrt(one_alone * (1 - _DRAWN + _DRAWN / len(late)))
    return Added(sum(noises) / len(noises), error, (late[0].step, late[-1].step))


def gradient_collapse(facts: Facts, remaining: Left) -> float:
    """The gradient norm's share of its first steps', over the loss's share: both medians, except of a smoothed run,
    of whose loss that is taken which is left to learn.

    A run that learns has less gradient as it has less loss, and one that meets what cannot be known keeps every batch's
    own; where gradients vanish and the loss stays, the weights were thrown where nothing depends on them any more.
    """
    last = slice(-window(facts), None)
    smoothed = facts.recipe.label_smoothing > 0
    losses = remaining.share if smoothed else np.median(facts.losses[last]) / facts.start_loss
    return float(np.median(facts.norms[last]) / np.median(facts.norms[:FIRST]) / losses)


def window(facts: Facts) -> int:
    """Steps of a tenth of the run, at least five."""
    return max(FIRST, len(facts.losses) // 10)


def highest_rise(facts: Facts) -> tuple[float, float, tuple[int, int]]:
    """The most that the median loss of a tenth of the run rose above an earlier tenth's, its standard error, and when.

    Medians, because a pass ends with a batch of few examples, which may all be easy or hard.
    """
    size = window(facts)
    error = _MEDIAN * math.sqrt(2 / size) * batch_noise(facts.losses)
    medians = np.median(np.lib.stride_tricks.sliding_window_view(facts.losses, size), axis=1)
    top = int(np.argmax(medians - np.minimum.accumulate(medians)))
    low = int(np.argmin(medians[: top + 1]))
    return float(medians[top] - medians[low]), error, (low + size, top + size)


def batch_noise(losses: Curve) -> float:
    """Standard deviation of a step's loss that comes from which examples are in its batch.

    From neighbouring steps' differences, which a trend hardly moves; their median, which single spikes hardly move.
    """
    return float(np.median(np.abs(np.diff(losses))) * _TO_DEVIATION) if len(losses) > 1 else 0.0


def _part(facts: Facts, spent: Curve, chosen: np.ndarray) -> Part:
    losses = facts.losses[chosen]
    # a few steps may look calm by chance, and all steps of a run are calmer than its first
    noise = max(batch_noise(losses), batch_noise(facts.losses))
    return Part(
        first=int(chosen[0]) + 1,
        last=int(chosen[-1]) + 1,
        loss=float(losses.mean()),
        error=noise / float(np.sqrt(len(losses))),
        spent=float(spent[chosen].mean()),
    )
