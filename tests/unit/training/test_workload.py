"""What a run will compute is known before: the same tokens that its packs will have."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.training.lora.objectives import flat
from services.training.lora.packing import Group, TokenExample, pack, pack_size
from services.training.lora.plan import Plan
from services.training.lora.workload import Workload
from services.training.recipe import Recipe

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=60).map(tuple)
GROUPS = st.lists(st.builds(TokenExample, TOKENS, TOKENS).map(lambda example: (example,)), min_size=1, max_size=6)


def examples(count: int, seed: int) -> list[Group]:
    drawn = random.Random(seed)
    return [
        (
            TokenExample(
                (1, 2, 3, *drawn.choices(range(9), k=drawn.randint(5, 90))), tuple(drawn.choices(range(9), k=4))
            ),
        )
        for _ in range(count)
    ]


def workload(recipe: Recipe, *, train: int, replay: int = 0, processes: int = 1) -> Workload:
    validation = examples(20, seed=2)
    return Workload(
        Plan(recipe, train, replay),
        examples(train, seed=1),
        examples(replay, seed=3),
        samples=[validation[:10], examples(8, seed=4)],
        rest=validation,
        micro_batch_tokens=recipe.micro_batch_tokens,
        processes=processes,
    )


@given(GROUPS)
def test_a_pack_s_size_is_known_without_laying_it_out(groups: list[Group]) -> None:
    assert pack_size(groups) == len(pack(flat(groups)).input_ids)


@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_ahead_of_a_short_run_is_exact(processes: int) -> None:
    recipe = Recipe(epochs=3, batch_size=8, micro_batch_tokens=128, save_steps=4, replay_ratio=0.25)
    work = workload(recipe, train=45, replay=10, processes=processes)
    total = work.plan.total_steps
    assert (total, work.plan.replayed_at_once) == (24, 2)
    steps = [sum(len(pack(flat(some)).input_ids) for some in work.packs(work.batch(s))) for s in range(1, total + 1)]
    for step in range(total + 1):
        assert work.ahead(step).trained == sum(steps[step:])
    each, last = sum(map(work.tokens, work.samples)), work.tokens(work.rest)
    assert work.ahead(0).scored == 3 * each + last
    assert work.ahead(total - 1).scored == each + last
    assert work.ahead(total).scored == 0


def test_files_of_a_step_are_ahead_until_they_are_written() -> None:
    work = workload(Recipe(epochs=3, batch_size=8, save_steps=4), train=64)
    files = {step: (work.ahead(step).checkpoints, work.ahead(step).states) for step in range(25)}
    assert files[0] == files[1] == (3, 5)
    assert (files[4], files[5]) == ((3, 5), (3, 4))
    assert (files[8], files[9]) == ((3, 4), (2, 3))
    assert (files[20], files[21]) == ((1, 1), (1, 0))
    assert files[24] == (1, 0), "the last step saves no state"


def test_a_long_run_is_known_from_some_of_its_steps() -> None:
    work = workload(Recipe(epochs=200, batch_size=8), train=45)
    total = work.plan.total_steps
    assert len(work.looked_at) < total
    assert (work.looked_at[0], work.looked_at[-1]) == (1, total)
    truth = sum(work.tokens(work.batch(step)) for step in range(301, total + 1))
    assert work.ahead(300).trained == pytest.approx(truth, rel=0.03)


def test_without_validation_examples_nothing_is_scored() -> None:
    work = workload(Recipe(), train=45)
    bare = Workload(work.plan, work.train, [], samples=[], rest=[], micro_batch_tokens=512)
    assert bare.ahead(0).scored == 0
    assert bare.ahead(0).checkpoints == 3, "weights are kept all the same"
