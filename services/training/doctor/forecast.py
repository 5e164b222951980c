"""What more data would bring: a power law through the validation losses of runs on shares of the examples.

loss(n) = a + b · n^-c, the form that learning curves were found to follow (Hestness et al. 2017, arXiv:1712.00409).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

_EXPONENTS = np.linspace(0.05, 2.0, 40)
_DRAWS = 500
_LEVEL = 0.9


@dataclass(frozen=True)
class Point:
    """The best validation loss of one run, with its standard error, in nats; `examples` it was trained on."""

    examples: int
    valid_loss: float
    error: float


@dataclass(frozen=True)
class Forecast:
    """Nats by which the loss would fall with `examples` instead of the most that was tried, with a 90 % interval."""

    examples: int
    gain: float
    low: float
    high: float

    @property
    def tells(self) -> bool:
        """Whether the interval excludes that more data brings nothing."""
        return self.low > 0


def forecast(points: Sequence[Point], *, factor: float = 2.0, seed: int = 0) -> Forecast | None:
    """For `factor` times the most examples; None with fewer than three sizes, through which any curve goes.

    The interval redraws every loss within its error, fits anew and takes the middle 90 %.
    """
    sizes = np.array([point.examples for point in points], dtype=np.float64)
    if len(np.unique(sizes)) < 3:
        return None
    losses = np.array([point.valid_loss for point in points])
    errors = np.array([point.error for point in points])
    most = float(sizes.max())
    chance = np.random.default_rng(seed)
    drawn = losses + errors * chance.standard_normal((_DRAWS, len(points)))
    gains = [_gain(sizes, one, most, factor * most) for one in drawn]
    low, high = np.quantile(gains, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Forecast(round(factor * most), _gain(sizes, losses, most, factor * most), float(low), float(high))


def _gain(sizes: npt.NDArray[np.float64], losses: npt.NDArray[np.float64], now: float, then: float) -> float:
    """The fall from `now` to `then` examples on the best curve with a, b ≥ 0 and c on a grid."""
    best, gain = np.inf, 0.0
    for exponent in _EXPONENTS:
        falling = (sizes / now) ** -exponent
        (_, b), residual = nnls(np.column_stack([np.ones_like(sizes), falling]), losses)
        if residual < best:
            best, gain = residual, float(b * (1 - (then / now) ** -exponent))
    return gain
