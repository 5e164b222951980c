"""Which examples stand for all: for a learning curve, and for what is measured beside training."""

import numpy as np

from services.training.lora.packing import Group
from services.training.recipe import Recipe


def drawn(examples: list[Group], share: float, seed: int) -> list[Group]:
    """That share of the examples in their order, at least one; what a smaller share holds a larger one holds too."""
    if share == 1:
        return examples
    order = np.random.default_rng([seed, len(examples)]).permutation(len(examples))
    return [examples[int(i)] for i in sorted(order[: max(1, round(share * len(examples)))])]


def sample_size(examples: int, recipe: Recipe) -> int:
    """How many training examples each validation scores as well: so few that it should cost 3 % of the steps' time.

    A forward pass costs a third of a step, so a tenth of the examples between two validations may be scored; 16 even
    where that is more, or the mean would say nothing, and never more than validation examples.
    """
    learned = examples * min(1.0, recipe.epochs)
    if recipe.max_steps is not None:
        learned = min(learned, recipe.max_steps * recipe.batch_size)
    between = learned / recipe.evals_per_epoch
    return min(max(16, round(0.1 * between)), 64, recipe.max_validation_examples)


def evenly(examples: list[Group], most: int) -> list[Group]:
    """At most so many examples, spread evenly over the list."""
    if len(examples) <= most:
        return examples
    return [examples[int(i)] for i in np.linspace(0, len(examples) - 1, most)]
