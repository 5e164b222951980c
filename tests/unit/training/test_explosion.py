"""An explosion is five wild steps in a row; whatever healthy runs do is none."""

import math
import random

import pytest

from services.training.errors import NonFiniteLoss
from services.training.lora.explosion import check, limit, wild_since

CALM = [3.0, 3.2, 2.9, 3.1, 2.8, 2.5, 2.4]


def test_five_wild_steps_in_a_row_are_an_explosion() -> None:
    check([*CALM, 8.0, 9.0, 9.0, 7.5])
    with pytest.raises(NonFiniteLoss, match=r"since step 8; it began at 3\.0"):
        check([*CALM, 8.0, 9.0, 9.0, 7.5, 8.0])


def test_a_spike_that_training_recovers_from_is_none() -> None:
    spiky = CALM + [9.0, 9.0, 9.0, 9.0, 2.4] * 20
    for steps in range(len(spiky)):
        check(spiky[:steps])
    assert wild_since(spiky) is None
    assert wild_since(spiky[:-1]) == len(spiky) - 4


def test_says_nothing_of_the_steps_that_say_where_the_run_began() -> None:
    check([50.0] * 5)
    assert wild_since([1.0, 50.0, 50.0, 50.0, 50.0]) is None


def test_a_run_that_begins_near_zero_may_rise_by_a_nat() -> None:
    check([0.01] * 6 + [0.9] * 50)
    assert limit([0.01] * 5) == pytest.approx(1.02)


@pytest.mark.parametrize("seed", range(20))
def test_leaves_noisy_healthy_runs_alone(seed: int) -> None:
    """Batches of one example whose losses spread over a factor of ten while their mean falls."""
    noise = random.Random(seed)
    losses = [3.0 * math.exp(-step / 150) * noise.lognormvariate(-0.3, 0.8) for step in range(400)]
    for steps in range(len(losses)):
        check(losses[:steps])
