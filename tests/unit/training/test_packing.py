"""A pack is the token trie of its examples, laid out so that each node sees exactly its own prefix."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.training.lora.packing import NO_LABEL, TokenExample, pack, shared_prefix, split_batch

tokens = st.lists(st.integers(1, 4), min_size=1, max_size=8).map(tuple)
examples = st.lists(st.builds(TokenExample, prompt=tokens, completion=tokens), min_size=1, max_size=8)


@given(examples)
def test_every_label_sees_exactly_the_tokens_before_it(batch: list[TokenExample]) -> None:
    packed = pack(batch)
    seen = []
    for node, label in zip(packed.label_nodes, packed.labels, strict=True):
        if label != NO_LABEL:
            visible = np.flatnonzero(packed.sees[node])
            in_order = visible[np.argsort(packed.positions[visible])]
            assert list(packed.positions[in_order]) == list(range(len(in_order)))
            seen.append((tuple(packed.input_ids[in_order]), int(label)))
    wanted = [
        (example.prompt + example.completion[:place], label)
        for example in batch
        for place, label in enumerate(example.completion)
    ]
    assert sorted(seen) == sorted(wanted)
    assert packed.label_count == len(wanted)


@given(examples)
def test_computes_a_shared_prefix_once(batch: list[TokenExample]) -> None:
    packed = pack(batch)
    prefixes = {example.tokens[:length] for example in batch for length in range(1, len(example.tokens) + 1)}
    assert np.count_nonzero(packed.input_ids) == len(prefixes)


@given(examples, st.integers(4, 30))
def test_split_keeps_every_example_and_the_limit(batch: list[TokenExample], limit: int) -> None:
    packs = split_batch([(example,) for example in batch], limit)
    assert sorted(e.tokens for part in packs for (e,) in part) == sorted(e.tokens for e in batch)
    for part in packs:
        nodes = {example.tokens[:length] for (example,) in part for length in range(1, len(example.tokens) + 1)}
        assert len(nodes) <= limit or len(part) == 1


@given(st.lists(examples.map(tuple), min_size=1, max_size=4), st.integers(4, 40))
def test_split_keeps_groups_together(groups: list[tuple[TokenExample, ...]], limit: int) -> None:
    packs = split_batch(groups, limit)
    assert sorted(map(repr, (group for part in packs for group in part))) == sorted(map(repr, groups))
    for part in packs:
        together = [example for group in part for example in group]
        nodes = {example.tokens[:length] for example in together for length in range(1, len(example.tokens) + 1)}
        assert len(nodes) <= limit or len(part) == 1


@given(examples)
def test_every_label_knows_its_example(batch: list[TokenExample]) -> None:
    packed = pack(batch)
    for number, example in enumerate(batch):
        own = (packed.owners == number) & (packed.labels != NO_LABEL)
        assert tuple(packed.labels[own]) == example.completion


@given(tokens, tokens)
def test_shared_prefix_is_the_longest_one(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    length = shared_prefix(left, right)
    assert left[:length] == right[:length]
    assert left[: length + 1] != right[: length + 1] or length == min(len(left), len(right))


def test_one_long_example_goes_alone() -> None:
    long = TokenExample(tuple(range(1, 50)), (7,))
    short = TokenExample((1, 2), (3,))
    assert sorted(len(part) for part in split_batch([(long,), (short,)], 10)) == [1, 1]
