"""The plan of a run as pure functions of the step: which examples, which learning rate, when to validate and save.

Because nothing here remembers anything, a resumed run needs only its step number to go on where it was.
"""

import math
from dataclasses import dataclass

import numpy as np

from services.training.recipe import Recipe


@dataclass(frozen=True)
class Plan:
    """Steps count from 1; `examples` is the number of training examples."""

    recipe: Recipe
    examples: int

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.examples / self.recipe.batch_size)

    @property
    def total_steps(self) -> int:
        wanted = max(1, round(self.recipe.epochs * self.steps_per_epoch))
        return wanted if self.recipe.max_steps is None else min(wanted, self.recipe.max_steps)

    def batch(self, step: int) -> list[int]:
        """Indices of the step's examples: every example once per epoch, in an order that the seed decides."""
        epoch, within = divmod(step - 1, self.steps_per_epoch)
        order = np.random.default_rng([self.recipe.seed, epoch]).permutation(self.examples)
        start = within * self.recipe.batch_size
        return [int(index) for index in order[start : start + self.recipe.batch_size]]

    def epoch(self, step: int) -> float:
        return step / self.steps_per_epoch

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then the schedule; the last step of a falling schedule is small but not zero."""
        peak, warm = self.recipe.learning_rate, round(self.recipe.warmup_ratio * self.total_steps)
        if step <= warm:
            return peak * step / (warm + 1)
        left = (self.total_steps - step + 1) / (self.total_steps - warm)  # 1 → just above 0
        if self.recipe.schedule == "constant":
            return peak
        return peak * (left if self.recipe.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left)))

    @property
    def validates_every(self) -> int:
        return max(1, round(self.steps_per_epoch / self.recipe.evals_per_epoch))

    def validates_after(self, step: int) -> bool:
        """Whether validation follows; then the step's weights are also kept as a model of their own."""
        return step == self.total_steps or step % self.validates_every == 0

    def validations_after(self, step: int) -> int:
        """How many validations are still to come after the step."""
        regular = self.total_steps // self.validates_every - step // self.validates_every
        return regular + int(self.total_steps % self.validates_every != 0 and step < self.total_steps)

    def saves_after(self, step: int) -> bool:
        return step % self.recipe.save_steps == 0 and step != self.total_steps
