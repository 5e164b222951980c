"""The rules of a search that need no database: what its states are, when it is over, how many trials are next."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from services.training.search.space import Dimension, Value

SearchStatus = Literal["running", "paused", "succeeded", "failed", "cancelled"]
TrialStatus = Literal["running", "complete", "pruned", "stopped", "failed"]
"""`pruned`: fell behind the others. `stopped`: cancelled by hand, or the search ended first. Both have no result."""

RUNGS_FROM = 25
"""Percent of a run at which trials are compared first; then at twice that."""
HALVING = 2
"""One of so many goes on at each rung."""
COMPARED_FROM = 3
"""So many trials must be complete before one is stopped for falling behind: one good start is no measure."""


@dataclass(frozen=True)
class Budget:
    """What a search may use: trials, and seconds (None: any) of which `used` are gone. `parallel` trials at once."""

    trials: int
    parallel: int
    seconds: float | None
    used: float

    @property
    def out_of_time(self) -> bool:
        return self.seconds is not None and self.used >= self.seconds

    @property
    def seconds_left(self) -> float | None:
        return None if self.seconds is None else max(0.0, self.seconds - self.used)


def to_start(budget: Budget, trials: Sequence[TrialStatus]) -> int:
    """How many more trials may start now."""
    if budget.out_of_time:
        return 0
    return max(0, min(budget.parallel - trials.count("running"), budget.trials - len(trials)))


def over(budget: Budget, trials: Sequence[TrialStatus]) -> bool:
    """Whether trials or minutes are used up and nothing runs any more."""
    return "running" not in trials and (budget.out_of_time or len(trials) >= budget.trials)


def ready_to_compare(trials: Sequence[TrialStatus]) -> bool:
    return trials.count("complete") >= COMPARED_FROM


def percent(step: int, total_steps: int) -> int:
    """How far a run is, the measure by which trials of different lengths are compared; 1 to 100."""
    return max(1, min(100, round(100 * step / total_steps)))


@dataclass(frozen=True)
class StudyPlan:
    """What the sampler must know of a search. `first` is the base recipe's point, tried before all others."""

    search_id: str
    space: Mapping[str, Dimension]
    first: Mapping[str, Value]
    trials: int
    seed: int


@dataclass(frozen=True)
class Point:
    """What one trial tries."""

    number: int
    params: dict[str, Value]


@dataclass(frozen=True)
class Observation:
    """One complete trial; losses in nats per completion token, the training loss of the best validation's step."""

    params: Mapping[str, Value]
    valid_loss: float
    train_loss: float


class Study(Protocol):
    """One search as its sampler and pruner see it; every method may be called again with the same."""

    def tell(self, ended: Mapping[int, tuple[TrialStatus, float | None]]) -> None:
        """Every trial that ended, by number, with its validation loss."""

    def falls_behind(self, number: int, curve: Sequence[Mapping[str, Any]]) -> bool:
        """Note a trial's validations; whether it was not among the better half where it was compared just now."""

    def ask(self, known: Collection[int]) -> Point:
        """The next point; `known` are the numbers that already have a trial."""

    def explain(self, observed: Sequence[Observation]) -> dict[str, Any]:
        """How much each parameter matters and where it is right, as the search shows it under `importance`."""


class Studies(Protocol):
    def open(self, plan: StudyPlan) -> Study:
        """The search's study; open it only while the search's row is locked."""

    def delete(self, search_id: str) -> None:
        """Forget the search's study, if it has one; only while the search's row is locked."""

    def close(self) -> None:
        """No more studies."""
