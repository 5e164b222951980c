"""Splits: whole clusters, everybody placed once, deterministic, sized and balanced as wished."""

import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from services.data.clusters import cluster_names
from services.data.domain import Example, Fractions, Message, Placed, fingerprint, sizes
from services.data.errors import CannotSplit
from services.data.leakage import leakage
from services.data.preparation import Prepared, prepare
from services.data.splits import assign

thorough = settings(max_examples=60)


@st.composite
def example_lists(draw: st.DrawFn) -> list[Example]:
    """Examples that share documents and questions in arbitrary ways."""
    word = st.sampled_from(["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"])
    questions = st.lists(word, min_size=1, max_size=6).map(" ".join)
    documents = st.lists(st.integers(0, 30).map(lambda n: f"{n}.md"), max_size=2, unique=True).map(tuple)
    kinds = st.sampled_from(["type", "default", "set"])
    one = st.builds(
        lambda q, a, d, k: Example((Message("user", q),), a, d, {"kind": k}), questions, word, documents, kinds
    )
    return draw(st.lists(one, min_size=1, max_size=60))


def try_prepare(examples: list[Example], seed: int) -> Prepared:
    """Prepared, or the example is skipped: fewer groups than splits are refused, and that has its own test."""
    try:
        return prepare(examples, Fractions(), seed=seed)
    except CannotSplit:
        reject()


@thorough
@given(example_lists(), st.integers(0, 5))
def test_never_lets_a_document_question_or_near_duplicate_straddle_splits(examples: list[Example], seed: int) -> None:
    found = try_prepare(examples, seed).report["leakage"]
    assert found["clean"], found


@thorough
@given(example_lists(), st.integers(0, 5))
def test_places_every_example_in_exactly_one_split(examples: list[Example], seed: int) -> None:
    placed = try_prepare(examples, seed).placed
    said = {(e.question, e.answer) for e in examples}
    assert len(placed) == len({(one.example.question, one.example.answer) for one in placed})
    assert {(one.example.question, one.example.answer) for one in placed} == said
    assert all(sizes(placed).values())


@thorough
@given(example_lists(), st.integers(0, 5), st.randoms(use_true_random=False))
def test_decides_by_content_and_seed_not_by_order(examples: list[Example], seed: int, dice: random.Random) -> None:
    placed = try_prepare(examples, seed).placed
    assert fingerprint(placed) == fingerprint(try_prepare(examples, seed).placed)
    unique = [one.example for one in placed]
    shuffled = dice.sample(unique, len(unique))
    where = {id(one.example): (one.split, one.cluster) for one in try_prepare(shuffled, seed).placed}
    assert [where[id(one.example)] for one in placed] == [(one.split, one.cluster) for one in placed]


def corpus(documents: int, kinds: tuple[str, ...] = ("type", "default", "set")) -> list[Example]:
    return [
        Example((Message("user", f"{kind} of thing{n}x"),), str(n), (f"{n}.md",), {"kind": kind})
        for n in range(documents)
        for kind in kinds
    ]


def test_hits_the_sizes_and_balances_the_kinds() -> None:
    examples = corpus(200)
    placed = assign(examples, cluster_names(examples, []), Fractions(), seed=3)
    assert sizes(placed) == {"train": 420, "validation": 60, "test": 120}
    kinds = Counter((one.split, one.example.kind) for one in placed)
    assert {kinds["test", kind] for kind in ("type", "default", "set")} == {40}


def test_different_seeds_split_differently_and_uniformly() -> None:
    examples = corpus(50, ("only",))
    in_test: Counter[str] = Counter()
    for seed in range(400):
        placed = assign(examples, cluster_names(examples, []), Fractions(), seed=seed)
        in_test.update(one.cluster for one in placed if one.split == "test")
    # 400 draws at 0.2: mean 80, standard deviation 8; five of them either side
    assert set(in_test) == {f"{n}.md" for n in range(50)}
    assert 40 < min(in_test.values()) <= max(in_test.values()) < 120


def test_leaves_out_a_split_whose_share_is_zero() -> None:
    examples = corpus(20)
    placed = assign(examples, cluster_names(examples, []), Fractions(0.8, 0.0, 0.2), seed=0)
    assert sizes(placed) == {"train": 48, "validation": 0, "test": 12}


def test_puts_a_giant_cluster_into_train() -> None:
    giant = [Example((Message("user", f"q{n}x"),), "a", ("handbook.md",)) for n in range(100)]
    placed = prepare([*giant, *corpus(4)], Fractions(), seed=0).placed
    assert {one.split for one in placed if one.cluster == "handbook.md"} == {"train"}
    assert all(sizes(placed).values())


def test_refuses_what_cannot_be_torn_apart_and_says_why() -> None:
    one_book = [Example((Message("user", f"q{n}x"),), "a", ("handbook.md",)) for n in range(9)]
    with pytest.raises(CannotSplit, match=r"9 examples form 1 group.*handbook\.md"):
        prepare(one_book, Fractions(), seed=0)


@pytest.mark.parametrize("shares", [(0.5, 0.1, 0.1), (0, 0.5, 0.5), (1.2, -0.1, -0.1), (float("nan"), 0, 1)])
def test_refuses_shares_that_are_none(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        Fractions(*shares)


def test_leakage_check_sees_what_a_careless_split_does() -> None:
    examples = corpus(30)
    careless = [
        Placed(example, "train" if number % 2 else "test", example.documents[0])
        for number, example in enumerate(examples)
    ]
    found = leakage(careless, [])
    assert (found["documents"], found["clusters"], found["clean"]) == (30, 30, False)


def test_fingerprint_knows_content_and_split_but_not_the_source() -> None:
    examples = corpus(10)
    placed = assign(examples, cluster_names(examples, []), Fractions(), seed=0)
    other_file = [Example(e.messages, e.answer, e.documents, e.metadata, {"file_id": "f"}, line=7) for e in examples]
    assert fingerprint(assign(other_file, cluster_names(other_file, []), Fractions(), seed=0)) == fingerprint(placed)
    moved = [*placed[:-1], Placed(placed[-1].example, "test" if placed[-1].split == "train" else "train", "x")]
    assert fingerprint(moved) != fingerprint(placed)


def test_groups_hold_together_in_the_result() -> None:
    where = defaultdict(set)
    for one in prepare(corpus(40), Fractions(), seed=1).placed:
        where[one.cluster].add(one.split)
    assert all(len(splits) == 1 for splits in where.values())
