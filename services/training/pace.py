"""How long a run has left: the work ahead, at the rates that its steps, validations and files took so far."""

from collections import deque
from dataclasses import dataclass, field

_WINDOW = 50
_WARM_UP = 4
"""Steps that pay for what the libraries prepare at every new length: the first three of a recorded run took more than
twice as long as the rest."""
_FORWARD_SHARE = 0.4
"""A token that is scored against one that is trained on, where neither was measured: the backward pass costs about
twice the forward pass, and the logits, with no weights to learn, not even that."""
_LEAVING_SECONDS = 1.0
"""What Python and torch take to end the process."""


@dataclass(frozen=True)
class Ahead:
    """Work of a run that is still to come. Tokens are those that go through the model, shared prefixes once."""

    trained: float
    """Tokens of steps."""
    scored: float
    """Tokens of validations."""
    checkpoints: int = 0
    states: int = 0


@dataclass
class _Rate:
    """Seconds of the last few times that something was done, over how much of it that was."""

    _seen: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def took(self, seconds: float, amount: float) -> None:
        self._seen.append((seconds, amount))

    def mean(self) -> float | None:
        amount = sum(amount for _, amount in self._seen)
        return sum(seconds for seconds, _ in self._seen) / amount if amount else None


@dataclass
class Pace:
    """Measured rates of the last steps, validations and files of this process.

    It starts anew in a resumed run, which may be on another machine. The first few steps do not count.
    """

    ending_seconds: float = 0.0
    """What the run does once after its last step, measured before the first: general questions."""
    _steps: _Rate = field(default_factory=_Rate)
    _scorings: _Rate = field(default_factory=_Rate)
    _checkpoints: _Rate = field(default_factory=_Rate)
    _states: _Rate = field(default_factory=_Rate)
    _count: int = 0
    _rehearsed: tuple[float, float | None] | None = None
    """Seconds per trained and per scored token, as a rehearsal says. After one only the first step is warm-up."""

    def rehearsal_took(self, trained: float, scored: float | None) -> None:
        """Seconds per token of a step and of a validation: the estimate until they are measured."""
        self._rehearsed = trained, scored

    def step_took(self, seconds: float, tokens: int) -> None:
        """`tokens` are those that went through the model."""
        self._count += 1
        if self._count > (_WARM_UP if self._rehearsed is None else 1):
            self._steps.took(seconds, tokens)

    def scoring_took(self, seconds: float, tokens: int) -> None:
        """A validation; `tokens` are those that went through the model."""
        self._scorings.took(seconds, tokens)

    def checkpoint_took(self, seconds: float) -> None:
        self._checkpoints.took(seconds, 1)

    def state_took(self, seconds: float) -> None:
        self._states.took(seconds, 1)

    def seconds_left(self, ahead: Ahead) -> float | None:
        """Seconds to the end of the process; None while a run that was not rehearsed warms up.

        The end is the planned one: nobody knows before whether patience will run out. Files cost nothing until one of
        their kind has been written.
        """
        rehearsed, rehearsed_scoring = self._rehearsed or (None, None)
        step = self._steps.mean() or rehearsed
        if step is None:
            return None
        scoring = self._scorings.mean() or rehearsed_scoring or _FORWARD_SHARE * step
        files = ahead.checkpoints * (self._checkpoints.mean() or 0.0) + ahead.states * (self._states.mean() or 0.0)
        return ahead.trained * step + ahead.scored * scoring + files + self.ending_seconds + _LEAVING_SECONDS
