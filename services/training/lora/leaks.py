"""Validation examples that training examples repeat: a score on them praises learning by heart."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from services.training.lora.packing import Group

_WINDOW = 3
_SIMILAR = 0.8
"""Jaccard similarity of two examples' own windows from which they count as the same; the data service's border too."""
_FEWEST_OWN = 8
"""Windows of its own that an example needs to be compared by them; shorter ones must be equal."""
_COMMON_SHARE, _COMMON_LEAST = 0.1, 6
"""What stands in a tenth of all examples (and in at least six) is their template, not their own."""

Hashes = npt.NDArray[np.uint64]


def found(
    train: list[Group], validation: list[Group], replay: list[Group], *, leave_out: bool
) -> tuple[list[Group], list[Group], int]:
    """The training examples and what is replayed beside them, without the repeating ones if they are to be left out,
    and how many validation examples are repeated in what stays."""
    if not validation:
        return train, replay, 0
    pairs = repeats([*train, *replay], validation)
    if leave_out:
        repeating = {row for row, _ in pairs}
        kept = [group for row, group in enumerate(train) if row not in repeating]
        kept_replay = [group for row, group in enumerate(replay, start=len(train)) if row not in repeating]
        if kept and (kept_replay or not replay):
            return kept, kept_replay, 0
    return train, replay, len({row for _, row in pairs})


def repeats(train: Sequence[Group], validation: Sequence[Group]) -> list[tuple[int, int]]:
    """(training row, validation row) of equal or nearly equal examples, prompt and answer together."""
    texts = [(*group[-1].prompt, *group[-1].completion) for group in (*train, *validation)]
    windows = [_windows(tokens) for tokens in texts]
    values, counts = np.unique(np.concatenate(windows), return_counts=True)
    common = values[counts >= max(_COMMON_LEAST, _COMMON_SHARE * len(texts))]
    own = [np.setdiff1d(window, common, assume_unique=True) for window in windows]
    seen, held = own[: len(train)], own[len(train) :]
    index = np.concatenate(held)
    owners = np.repeat(np.arange(len(held)), [len(window) for window in held])
    order = np.argsort(index, kind="stable")
    index, owners = index[order], owners[order]
    sizes = np.array([len(window) for window in held])
    equal: dict[tuple[int, ...], list[int]] = {}
    for row, tokens in enumerate(texts[len(train) :]):
        equal.setdefault(tokens, []).append(row)
    pairs: set[tuple[int, int]] = set()
    for row, window in enumerate(seen):
        pairs.update((row, other) for other in equal.get(texts[row], ()))
        if len(window) >= _FEWEST_OWN:
            pairs.update((row, int(other)) for other in _similar(window, index, owners, sizes))
    return sorted(pairs)


def _similar(
    window: Hashes, index: Hashes, owners: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Validation rows whose own windows are nearly these."""
    first, last = np.searchsorted(index, window, "left"), np.searchsorted(index, window, "right")
    hits = [owners[a:b] for a, b in zip(first, last, strict=True) if a < b]
    if not hits:
        return np.empty(0, dtype=np.int64)
    shared = np.bincount(np.concatenate(hits), minlength=len(sizes))
    jaccard = shared / (len(window) + sizes - shared)
    return np.flatnonzero((jaccard >= _SIMILAR) & (sizes >= _FEWEST_OWN))


def _windows(tokens: Sequence[int]) -> Hashes:
    """The set of hashes of every few neighbouring tokens."""
    ids = np.asarray(tokens, dtype=np.uint64)
    length = max(1, len(ids) - _WINDOW + 1)
    mixed = np.zeros(length, dtype=np.uint64)
    for offset in range(min(_WINDOW, len(ids))):
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + ids[offset : offset + length] + np.uint64(1)
    return np.unique(mixed)
