"""Packing examples without padding, each shared prefix computed once: a token trie laid out as one sequence.

Questions of one template begin with the same tokens (system prompt, instruction, wording). Causal attention makes
a prefix's hidden states the same in every example, so the pack holds them once and every continuation attends to
them. The loss and its gradient equal those of the examples alone; only arithmetic is saved.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NODE_MULTIPLE = 32
LABEL_MULTIPLE = 16
NO_LABEL = -100
"""What torch's cross entropy leaves out."""


@dataclass(frozen=True)
class TokenExample:
    """One example as token ids; the loss is taken on the completion only."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """What the model reads; the completion's last token is only ever a target."""
        return self.prompt + self.completion[:-1]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


Group = tuple[TokenExample, ...]
"""Token examples that belong to one training example and are computed together: the learned turns of a conversation
(each turn's tokens begin the next one's prompt), or a preference's two answers."""


@dataclass(frozen=True)
class Pack:
    """One forward pass: N trie nodes, M places for labels, padding at the end of both.

    Lengths are rounded up because every new length costs the CPU's matrix library freshly compiled kernels, in time
    and in memory that it keeps: without rounding the demo's run grew by a gigabyte.
    """

    input_ids: npt.NDArray[np.int64]  # (N,)
    positions: npt.NDArray[np.int64]  # (N,) place within the example, from 0
    sees: npt.NDArray[np.bool_]  # (N, N) row attends to column: itself and its ancestors in the trie
    label_nodes: npt.NDArray[np.int64]  # (M,) node whose next token is scored
    labels: npt.NDArray[np.int64]  # (M,) that next token, NO_LABEL in padding
    owners: npt.NDArray[np.int64]  # (M,) which of the examples, in the order they were given, the label belongs to
    label_count: int


def pack(examples: Sequence[TokenExample]) -> Pack:
    """Lay the examples' token trie out as one sequence; at least one example.

    Examples are taken in the order of their tokens, so that each one's longest shared prefix is with the last.
    """
    ids: list[int] = []
    positions: list[int] = []
    rows: list[tuple[int, npt.NDArray[np.int64]]] = []  # (first new depth, the path's nodes)
    label_nodes: list[npt.NDArray[np.int64]] = []
    labels: list[int] = []
    owners: list[int] = []
    last_tokens: tuple[int, ...] = ()
    path = np.empty(0, dtype=np.int64)
    for owner, example in sorted(enumerate(examples), key=lambda numbered: numbered[1].tokens):
        tokens = example.tokens
        shared = shared_prefix(last_tokens, tokens)
        fresh = np.arange(len(ids), len(ids) + len(tokens) - shared, dtype=np.int64)
        path = np.concatenate([path[:shared], fresh])
        ids.extend(tokens[shared:])
        positions.extend(range(shared, len(tokens)))
        rows.append((shared, path))
        label_nodes.append(path[len(example.prompt) - 1 :])
        labels.extend(example.completion)
        owners.extend([owner] * len(example.completion))
        last_tokens = tokens
    size = _round_up(len(ids), NODE_MULTIPLE)
    sees = np.eye(size, dtype=np.bool_)  # padding sees itself, so that its softmax is not empty
    for shared, nodes in rows:
        depth = np.arange(len(nodes))
        sees[np.ix_(nodes[shared:], nodes)] = depth[None, :] <= depth[shared:, None]
    places = _round_up(len(labels), LABEL_MULTIPLE)
    return Pack(
        input_ids=_padded(ids, size, 0),
        positions=_padded(positions, size, 0),
        sees=sees,
        label_nodes=_padded(np.concatenate(label_nodes), places, 0),
        labels=_padded(labels, places, NO_LABEL),
        owners=_padded(owners, places, 0),
        label_count=len(labels),
    )


def split_batch(groups: Iterable[Group], limit: int) -> list[list[Group]]:
    """Cut an effective batch into packs of at most `limit` trie nodes; a group larger than that goes alone."""
    packs: list[list[Group]] = []
    size = 0
    last: tuple[int, ...] = ()
    for group in sorted(groups, key=lambda g: g[0].tokens):
        grown, within = _grown(size, last, group)
        if packs and grown <= limit:
            packs[-1].append(group)
            size = grown
        else:
            packs.append([group])
            size, within = _grown(0, (), group)
        last = within
    return packs


def pack_size(groups: Sequence[Group]) -> int:
    """How many trie nodes their pack has, padding included."""
    return _round_up(_grown(0, (), tuple(example for group in groups for example in group))[0], NODE_MULTIPLE)


def portions(groups: Sequence[Group], parts: int) -> list[list[Group]]:
    """The groups in so many lists that take about as long to compute; some may be empty.

    Neighbours in the order of their tokens stay together. What a group costs is what it does not share with its
    neighbour: every list computes the shared prefix anew.
    """
    if parts == 1:
        return [list(groups)]
    ordered = sorted(groups, key=lambda g: g[0].tokens)
    last = ordered[1][0].tokens if len(ordered) > 1 else ()
    middles, size = [], 0
    for group in ordered:
        grown, last = _grown(size, last, group)
        middles.append((size + grown + 1) / 2)
        size = grown + 1
    cut: list[list[Group]] = [[] for _ in range(parts)]
    for group, middle in zip(ordered, middles, strict=True):
        cut[int(middle * parts / size)].append(group)
    return cut


def _grown(size: int, last: tuple[int, ...], group: Group) -> tuple[int, tuple[int, ...]]:
    """Trie nodes with the group too (at most: only neighbours' prefixes are seen to be shared), and its last tokens."""
    for tokens in sorted(example.tokens for example in group):
        size += len(tokens) - shared_prefix(last, tokens)
        last = tokens
    return size, last


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _padded(values: Sequence[int] | npt.NDArray[np.int64], length: int, filler: int) -> npt.NDArray[np.int64]:
    padded = np.full(length, filler, dtype=np.int64)
    padded[: len(values)] = values
    return padded


def shared_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many first tokens are equal."""
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length
