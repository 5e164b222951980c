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
    groups = split_batch(batch, limit)
    assert sorted(e.tokens for group in groups for e in group) == sorted(e.tokens for e in batch)
    for group in groups:
        nodes = {example.tokens[:length] for example in group for length in range(1, len(example.tokens) + 1)}
        assert len(nodes) <= limit or len(group) == 1


@given(tokens, tokens)
def test_shared_prefix_is_the_longest_one(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    length = shared_prefix(left, right)
    assert left[:length] == right[:length]
    assert left[: length + 1] != right[: length + 1] or length == min(len(left), len(right))


def test_one_long_example_goes_alone() -> None:
    long = TokenExample(tuple(range(1, 50)), (7,))
    short = TokenExample((1, 2), (3,))
    assert sorted(len(group) for group in split_batch([long, short], 10)) == [1, 1]
