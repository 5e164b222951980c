"""What counts as the same example, and what is only the same template."""

import random

import pytest

from services.training.lora.leaks import found, repeats
from services.training.lora.packing import Group, TokenExample
from services.training.lora.samples import drawn, sample_size
from services.training.recipe import Recipe

TEMPLATE = tuple(range(1000, 1060))


def example(own: list[int], answer: list[int]) -> Group:
    return (TokenExample((*TEMPLATE, *own), tuple(answer)),)


def many(count: int, seed: int) -> list[Group]:
    chance = random.Random(seed)
    return [example([chance.randrange(500) for _ in range(20)], [chance.randrange(500)]) for _ in range(count)]


def test_a_shared_template_alone_is_no_repetition() -> None:
    assert repeats(many(100, 1), many(30, 2)) == []


def test_an_equal_example_is_found_however_short() -> None:
    train = [example([n], [n, 7]) for n in range(50)]
    validation = [example([n], [n, 7]) for n in range(48, 60)]
    assert repeats(train, validation) == [(48, 0), (49, 1)]


def test_short_examples_that_differ_are_different() -> None:
    assert repeats([example([1, n], [3]) for n in range(10)], [example([1, 2], [4])]) == []


def test_one_changed_word_is_nearly_the_same() -> None:
    train, validation = many(60, 3), many(20, 4)
    tokens = list(train[5][0].prompt)
    tokens[-1] = 501
    validation[2] = (TokenExample(tuple(tokens), train[5][0].completion),)
    assert repeats(train, validation) == [(5, 2)]


@pytest.mark.parametrize("leave_out", [False, True])
def test_repeating_training_examples_are_counted_or_left_out(leave_out: bool) -> None:
    train, validation = many(40, 5), many(10, 6)
    old = many(5, 8)
    kept, replayed, leaked = found(
        [*train, *validation[:3], validation[0]], validation, [*old, *validation[2:4]], leave_out=leave_out
    )
    assert (kept, leaked) == ((train, 0) if leave_out else ([*train, *validation[:3], validation[0]], 4))
    assert replayed == (old if leave_out else [*old, *validation[2:4]])


def test_no_validation_no_leak() -> None:
    assert found(many(3, 0), [], [], leave_out=True)[2] == 0


def test_a_smaller_share_is_part_of_a_larger_one() -> None:
    train = many(80, 7)
    quarter, half = drawn(train, 0.25, 1), drawn(train, 0.5, 1)
    assert (len(quarter), len(half)) == (20, 40)
    assert all(group in half for group in quarter)
    assert drawn(train, 0.25, 2) != quarter
    assert drawn(train, 1, 2) == train


def test_the_measured_training_examples_are_few() -> None:
    assert sample_size(300, Recipe()) == 30
    assert sample_size(50, Recipe()) == 16
    assert sample_size(10_000, Recipe()) == 64
    assert sample_size(10_000, Recipe(evals_per_epoch=50)) == 20
    assert sample_size(10_000, Recipe(evals_per_epoch=2, max_steps=25)) == 20, "of 400 examples that are learned from"
    assert sample_size(10_000, Recipe(evals_per_epoch=2, epochs=0.05)) == 25
