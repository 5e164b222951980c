"""Packing examples without padding, each shared prefix computed once: a token trie laid out as one sequence.

Questions of one template begin with the same tokens (system prompt, instruction, wording). Causal attention makes
a prefix's hidden states the same in every example, so the pack holds them once and every continuation attends to
them. The loss and its gradient equal those of the examples alone; only arithmetic is saved.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


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


@dataclass(frozen=True)
class Pack:
    """One forward pass: N trie nodes, M labels."""

    input_ids: npt.NDArray[np.int64]  # (N,)
    positions: npt.NDArray[np.int64]  # (N,) place within the example, from 0
    sees: npt.NDArray[np.bool_]  # (N, N) row attends to column: itself and its ancestors in the trie
    label_nodes: npt.NDArray[np.int64]  # (M,) node whose next token is scored
    labels: npt.NDArray[np.int64]  # (M,) that next token


def pack(examples: Sequence[TokenExample]) -> Pack:
    """Lay the examples' token trie out as one sequence; at least one example.

    Examples are taken in the order of their tokens, so that each one's longest shared prefix is with the last.
    """
    ids: list[int] = []
    positions: list[int] = []
    rows: list[tuple[int, npt.NDArray[np.int64]]] = []  # (first new depth, the path's nodes)
    label_nodes: list[npt.NDArray[np.int64]] = []
    labels: list[int] = []
    last_tokens: tuple[int, ...] = ()
    path = np.empty(0, dtype=np.int64)
    for example in sorted(examples, key=lambda e: e.tokens):
        tokens = example.tokens
        shared = shared_prefix(last_tokens, tokens)
        fresh = np.arange(len(ids), len(ids) + len(tokens) - shared, dtype=np.int64)
        path = np.concatenate([path[:shared], fresh])
        ids.extend(tokens[shared:])
        positions.extend(range(shared, len(tokens)))
        rows.append((shared, path))
        label_nodes.append(path[len(example.prompt) - 1 :])
        labels.extend(example.completion)
        last_tokens = tokens
    sees = np.zeros((len(ids), len(ids)), dtype=np.bool_)
    for shared, nodes in rows:
        depth = np.arange(len(nodes))
        sees[np.ix_(nodes[shared:], nodes)] = depth[None, :] <= depth[shared:, None]
    return Pack(
        input_ids=np.array(ids, dtype=np.int64),
        positions=np.array(positions, dtype=np.int64),
        sees=sees,
        label_nodes=np.concatenate(label_nodes),
        labels=np.array(labels, dtype=np.int64),
    )


def split_batch(examples: Iterable[TokenExample], limit: int) -> list[list[TokenExample]]:
    """Cut an effective batch into packs of at most `limit` trie nodes; an example longer than that goes alone."""
    packs: list[list[TokenExample]] = []
    size = 0
    last: tuple[int, ...] = ()
    for example in sorted(examples, key=lambda e: e.tokens):
        tokens = example.tokens
        grown = size + len(tokens) - shared_prefix(last, tokens)
        if packs and grown <= limit:
            packs[-1].append(example)
            size = grown
        else:
            packs.append([example])
            size = len(tokens)
        last = tokens
    return packs


def shared_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many first tokens are equal."""
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length
