"""How much a run has to compute, in tokens that go through the model: known before its first step."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from services.training.lora.packing import Group, pack_size, portions, split_batch
from services.training.lora.plan import Plan
from services.training.pace import Ahead

_MOST_STEPS, _FEWEST_STEPS, _EXAMPLES = 256, 16, 4096
"""Steps whose batches are looked at: all of a short run's, so many examples' of a long one's, spread evenly."""


@dataclass(frozen=True)
class Workload:
    """Of one run, over the processes that share it."""

    plan: Plan
    train: Sequence[Group]
    replay: Sequence[Group]
    samples: Sequence[Sequence[Group]]
    """Scored at every validation, one after the other; empty without validation examples."""
    rest: Sequence[Group]
    """Scored besides at the last one."""
    micro_batch_tokens: int
    processes: int = 1

    def batch(self, step: int) -> list[Group]:
        """The step's examples, with what is replayed."""
        plan = self.plan
        return [self.train[i] for i in plan.batch(step)] + [self.replay[i] for i in plan.replayed(step)]

    def packs(self, groups: Sequence[Group]) -> list[list[Group]]:
        """The forward passes of them, over all processes."""
        parts = portions(groups, self.processes)
        return [pack for part in parts for pack in split_batch(part, self.micro_batch_tokens)]

    def tokens(self, groups: Sequence[Group]) -> int:
        return sum(map(pack_size, self.packs(groups)))

    @cached_property
    def looked_at(self) -> list[int]:
        """Steps that stand for all."""
        total, per_step = self.plan.total_steps, self.plan.recipe.batch_size
        most = min(total, max(_FEWEST_STEPS, min(_MOST_STEPS, _EXAMPLES // per_step)))
        return [int(step) for step in np.linspace(1, total, most).round()]

    @cached_property
    def _trained(self) -> list[int]:
        """Tokens of the steps looked at."""
        return [self.tokens(self.batch(step)) for step in self.looked_at]

    @cached_property
    def _scored(self) -> int:
        return sum(map(self.tokens, self.samples))

    @cached_property
    def _scored_last(self) -> int:
        return self.tokens(self.rest)

    def ahead(self, step: int) -> Ahead:
        """What is to come when the step is computed and validated, and none of its files is written."""
        total, validations = self.plan.total_steps, self.plan.validations_after(step)
        if len(self.looked_at) == total:
            trained = float(sum(self._trained[step:]))
        else:
            trained = (total - step) * sum(self._trained) / len(self._trained)
        return Ahead(
            trained=trained,
            scored=validations * self._scored + (self._scored_last if validations else 0) if self.samples else 0,
            checkpoints=self.plan.validations_after(max(0, step - 1)),
            states=self.plan.saves_from(max(1, step)),
        )
