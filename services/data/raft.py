"""Retrieval-aware training rows (RAFT, Zhang et al. 2024): real passages, in the order in which serving will show them.

Pure: the caller fetches passages. A row shows the top k as retrieved. A chosen share of the training rows is sure to
hold a gold passage; the others show distractors only, so that the adapter learns what a failed retrieval looks like.
"""

import hashlib
import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from services.data.domain import Example, Placed, Split
from shared.prompt_format import Passage

GoldState = Literal["retrieved", "added", "withheld", "missing", "unknown"]
_VALIDATION_PART = 5
_VALIDATION_LEAST = 24


@dataclass(frozen=True)
class RaftSpec:
    """What a RAFT dataset is made of; `gold_share` of its training rows are sure to hold a gold passage."""

    source_dataset_id: str
    vector_store_id: str
    k: int
    rows_limit: int
    gold_share: float
    seed: int


@dataclass(frozen=True)
class Gold:
    """A row's gold documents and those of their passages that hold the answer."""

    documents: frozenset[str]
    passages: tuple[Passage, ...]


def choose_rows(placed: Sequence[Placed], rows_limit: int, *, seed: int) -> list[Placed]:
    """At most `rows_limit` training rows and a fifth of that (at least 24) for validation, balanced over kinds."""
    train = [one for one in placed if one.split == "train"]
    validation = [one for one in placed if one.split == "validation"]
    for_validation = max(_VALIDATION_LEAST, math.ceil(rows_limit / _VALIDATION_PART))
    return subsample(train, rows_limit, seed=seed) + subsample(validation, for_validation, seed=seed)


def subsample(rows: Sequence[Placed], limit: int, *, seed: int) -> list[Placed]:
    """A seeded sample in which each kind keeps its share (largest remainders); the order of `rows` is kept."""
    if len(rows) <= limit:
        return list(rows)
    by_kind: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        by_kind[row.example.kind].append(number)
    exact = {kind: limit * len(numbers) / len(rows) for kind, numbers in by_kind.items()}
    quota = Counter({kind: int(share) for kind, share in exact.items()})
    by_remainder = sorted(exact, key=lambda kind: (quota[kind] - exact[kind], kind))
    quota.update(by_remainder[: limit - quota.total()])
    chosen: set[int] = set()
    for kind, numbers in by_kind.items():
        ranked = sorted(numbers, key=lambda number: _rank(seed, "row", rows[number].example))
        chosen.update(ranked[: quota[kind]])
    return [row for number, row in enumerate(rows) if number in chosen]


def keeps_gold(rows: Sequence[Placed], gold_share: float, *, seed: int) -> set[int]:
    """Which of `rows` (by index) are sure to hold a gold passage: exactly `gold_share` of them, chosen by seed."""
    ranked = sorted(range(len(rows)), key=lambda number: _rank(seed, "gold", rows[number].example))
    return set(ranked[: round(gold_share * len(rows))])


def hidden_documents(placed: Sequence[Placed], split: Split) -> frozenset[str]:
    """Documents whose text a row of `split` must not show: those that later splits ask about."""
    later: dict[Split, tuple[Split, ...]] = {"train": ("validation", "test"), "validation": ("test",), "test": ()}
    return frozenset(name for one in placed if one.split in later[split] for name in one.example.documents)


def find_gold(example: Example, passages: Mapping[str, Sequence[Passage]]) -> Gold:
    """The passages of the gold documents that hold the answer word for word, or all of them when none does."""
    every = [passage for name in example.documents for passage in passages.get(name, ())]
    needle = " ".join(example.answer.casefold().split())
    holding = [passage for passage in every if needle in " ".join(passage.text.casefold().split())]
    return Gold(frozenset(example.documents), tuple(holding or every))


def compose(
    example: Example,
    retrieved: Sequence[Passage],
    gold: Gold,
    *,
    k: int,
    keep_gold: bool | None,
    hidden: frozenset[str],
    seed: int,
) -> Example:
    """The row: `k` passages as retrieved, hidden documents left out, and what was done about gold in `provenance`.

    `keep_gold` True puts a gold passage in at a random rank if retrieval missed it, False withholds gold documents,
    None leaves retrieval as it is.
    """
    visible = [passage for passage in retrieved if passage.document not in hidden]
    gold_ids = {passage.id for passage in gold.passages}
    if keep_gold is False and gold.documents:
        shown = [passage for passage in visible if passage.document not in gold.documents][:k]
    else:
        shown = visible[:k]
    state = _state(shown, gold, gold_ids, keep_gold)
    if state == "missing" and keep_gold and gold.passages:
        dice = random.Random(_rank(seed, "rank", example))
        shown = shown[: k - 1]
        shown.insert(dice.randint(0, len(shown)), dice.choice(gold.passages))
        state = "added"
    rank = next((number for number, passage in enumerate(shown) if passage.id in gold_ids), None)
    note = {"gold": state, "gold_rank": rank, "hidden_passages": len(retrieved) - len(visible)}
    return replace(
        example,
        passages=tuple(passage.model_dump(mode="json") for passage in shown),
        provenance=example.provenance | note,
    )


def _state(shown: Sequence[Passage], gold: Gold, gold_ids: set[str], keep_gold: bool | None) -> GoldState:
    if not gold.documents:
        return "unknown"
    if keep_gold is False:
        return "withheld"
    return "retrieved" if any(passage.id in gold_ids for passage in shown) else "missing"


def _rank(seed: int, purpose: str, example: Example) -> str:
    return hashlib.sha256(f"{seed}\x1f{purpose}\x1f{example.question}\x1f{example.answer}".encode()).hexdigest()
