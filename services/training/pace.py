"""How long a run has left, from the times that its steps and validations took."""

from collections import deque
from dataclasses import dataclass, field
from statistics import fmean

_WINDOW = 50
_WARM_UP = 4
"""Steps that pay for what the libraries prepare at every new length: the first three of a recorded run took more than
twice as long as the rest."""
_FORWARD_SHARE = 1 / 3
"""A validation token against a training token: the backward pass costs about twice the forward pass."""


@dataclass
class Pace:
    """Measured seconds of the last steps and of every validation of this process.

    It starts anew in a resumed run, which may be on another machine. The first few steps do not count.
    """

    validation_tokens: int
    _steps: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _validations: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _count: int = 0
    _rehearsed: tuple[float, float] | None = None
    """Of a step: seconds and tokens, as a rehearsal says. After one only the first step counts as warm-up."""

    def rehearsal_took(self, seconds: float, tokens: float) -> None:
        """What a step of the run's mean size will take, by a rehearsal: the estimate until steps are measured."""
        self._rehearsed = seconds, tokens

    def step_took(self, seconds: float, tokens: int) -> None:
        """`tokens` are the step's own, prompt and completion."""
        self._count += 1
        if self._count > (_WARM_UP if self._rehearsed is None else 1):
            self._steps.append((seconds, tokens))

    def validation_took(self, seconds: float) -> None:
        self._validations.append(seconds)

    def seconds_left(self, steps: int, validations: int) -> float | None:
        """Seconds for so many more steps and validations; None while a run that was not rehearsed warms up.

        A validation that has not been seen yet is taken to cost its tokens' share of the steps' rate.
        """
        if self._steps:
            step = fmean(seconds for seconds, _ in self._steps)
            tokens = fmean(tokens for _, tokens in self._steps)
        elif self._rehearsed is not None:
            step, tokens = self._rehearsed
        else:
            return None
        guess = step * self.validation_tokens / tokens * _FORWARD_SHARE
        validation = fmean(self._validations) if self._validations else guess
        return steps * step + validations * validation
