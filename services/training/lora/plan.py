"""The plan of a run as pure functions of the step: which examples, which learning rate, when to validate and save.

Because nothing here remembers anything, a resumed run needs only its step number to go on where it was.

Batches do not look at lengths, and need not. Elsewhere examples of like length are put into one batch because a batch
is a rectangle, and the short ones are filled up to the longest. Here a batch is cut into packs (`packing.py`) that lay
examples end to end: what is computed is their tokens, rounded up to the next 32, however long the longest is. There is
no padding for sorting to save, and it would have each step learn from short examples alone or from long ones alone, so
that every gradient leans one way. A plain permutation leans no way.
"""

import math
from dataclasses import dataclass

import numpy as np

from services.training.recipe import Recipe

_REPLAY = 1
"""Parts the replay's random stream from that of the examples, which has no third number."""


@dataclass(frozen=True)
class Plan:
    """Steps count from 1; `examples` is the number of training examples, `replay` of those to draw beside them."""

    recipe: Recipe
    examples: int
    replay: int = 0

    @property
    def replayed_at_once(self) -> int:
        """Of a whole batch's examples, how many are replayed."""
        wanted = round(self.recipe.replay_ratio * self.recipe.batch_size)
        return min(max(1, wanted), self.recipe.batch_size - 1) if self.replay and self.recipe.replay_ratio else 0

    @property
    def fresh_at_once(self) -> int:
        """The rest of a whole batch."""
        return self.recipe.batch_size - self.replayed_at_once

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.examples / self.fresh_at_once)

    @property
    def total_steps(self) -> int:
        wanted = max(1, round(self.recipe.epochs * self.steps_per_epoch))
        return wanted if self.recipe.max_steps is None else min(wanted, self.recipe.max_steps)

    def batch(self, step: int) -> list[int]:
        """Indices of the step's examples: every example once per epoch, in an order that the seed decides."""
        epoch, within = divmod(step - 1, self.steps_per_epoch)
        order = np.random.default_rng([self.recipe.seed, epoch]).permutation(self.examples)
        start = within * self.fresh_at_once
        return [int(index) for index in order[start : start + self.fresh_at_once]]

    def replayed(self, step: int) -> list[int]:
        """Indices of what the step replays: all of it in an order that the seed decides, then again in another."""
        first = (step - 1) * self.replayed_at_once
        places = range(first, first + self.replayed_at_once)
        orders = {
            again: np.random.default_rng([self.recipe.seed, again, _REPLAY]).permutation(self.replay)
            for again in {place // self.replay for place in places}
        }
        return [int(orders[place // self.replay][place % self.replay]) for place in places]

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
        """Steps between validations; a run that ends within its first epoch has that epoch's, spread over its steps."""
        spread_over = min(self.steps_per_epoch, self.total_steps)
        return max(1, round(spread_over / self.recipe.evals_per_epoch))

    def validates_after(self, step: int) -> bool:
        """Whether validation follows; then the step's weights are also kept as a model of their own."""
        return step == self.total_steps or step % self.validates_every == 0

    def validations_after(self, step: int) -> int:
        """How many validations are still to come after the step."""
        regular = self.total_steps // self.validates_every - step // self.validates_every
        return regular + int(self.total_steps % self.validates_every != 0 and step < self.total_steps)

    def saves_after(self, step: int) -> bool:
        return step % self.recipe.save_steps == 0 and step != self.total_steps

    def saves_from(self, step: int) -> int:
        """How many states are still to be saved, the step's own included."""
        return (self.total_steps - 1) // self.recipe.save_steps - (step - 1) // self.recipe.save_steps
