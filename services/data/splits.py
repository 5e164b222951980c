"""Train, validation and test: seeded, deterministic, whole clusters only, balanced over metadata `kind`."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from services.data.clusters import content_hash
from services.data.domain import SPLITS, Example, Fractions, Placed, Split
from services.data.errors import CannotSplit

_MOST_KINDS = 20


def assign(examples: Sequence[Example], clusters: Sequence[str], fractions: Fractions, *, seed: int) -> list[Placed]:
    """Place every example; the order of `examples` is kept and does not influence where they go.

    Clusters are taken from the largest to the smallest, equal ones in a seeded order, and each goes where it brings
    the examples per split and kind closest to the wish (least growth of the chi-square distance). Raises CannotSplit
    when there are fewer clusters than splits that should hold something.
    """
    wanted = [split for split in SPLITS if fractions.of(split) > 0]
    profiles = _profiles(examples, clusters)
    if len(profiles) < len(wanted):
        raise CannotSplit(_too_few(clusters, len(wanted)), param="split")
    ranks = _ranks(examples, clusters, seed)
    order = sorted(profiles, key=lambda name: (-profiles[name].total(), ranks[name]))
    placed = _place(order, profiles, fractions, wanted)
    _fill_empty(placed, order, profiles, wanted)
    return [Placed(example, placed[name], name) for example, name in zip(examples, clusters, strict=True)]


def _profiles(examples: Sequence[Example], clusters: Sequence[str]) -> dict[str, Counter[str]]:
    """Per cluster, how many examples of each kind; rare kinds beyond the twentieth count as one."""
    common = Counter(example.kind for example in examples).most_common(_MOST_KINDS)
    kinds = {kind for kind, _ in common}
    profiles: dict[str, Counter[str]] = defaultdict(Counter)
    for example, name in zip(examples, clusters, strict=True):
        profiles[name]["kind " + example.kind if example.kind in kinds else "others"] += 1
    return profiles


def _ranks(examples: Sequence[Example], clusters: Sequence[str], seed: int) -> dict[str, str]:
    """A pseudo-random rank per cluster from the seed and what its examples say, not from where they stand."""
    content: dict[str, list[str]] = defaultdict(list)
    for example, name in zip(examples, clusters, strict=True):
        content[name].append(content_hash(example))
    return {
        name: hashlib.sha256(f"{seed}\x1f{name}\x1f{','.join(sorted(hashes))}".encode()).hexdigest()
        for name, hashes in content.items()
    }


def _place(
    order: Sequence[str], profiles: dict[str, Counter[str]], fractions: Fractions, wanted: Sequence[Split]
) -> dict[str, Split]:
    totals: Counter[str] = sum(profiles.values(), Counter())
    target = {split: {kind: fractions.of(split) * count for kind, count in totals.items()} for split in wanted}
    have: dict[Split, Counter[str]] = {split: Counter() for split in wanted}

    def growth(split: Split, profile: Counter[str]) -> float:
        gaps = (
            (have[split][kind] - target[split][kind], count, target[split][kind]) for kind, count in profile.items()
        )
        return sum(((gap + count) ** 2 - gap**2) / wish for gap, count, wish in gaps)

    placed: dict[str, Split] = {}
    for name in order:
        best = min(wanted, key=lambda split: growth(split, profiles[name]))
        placed[name] = best
        have[best].update(profiles[name])
    return placed


def _fill_empty(
    placed: dict[str, Split], order: Sequence[str], profiles: dict[str, Counter[str]], wanted: Sequence[Split]
) -> None:
    """A split that got nothing (tiny datasets) takes the smallest cluster of the split with the most clusters."""
    for empty in wanted:
        if empty in placed.values():
            continue
        holders = Counter(placed.values())
        donor = max(wanted, key=lambda split: holders[split])
        smallest = min((name for name in order if placed[name] == donor), key=lambda name: profiles[name].total())
        placed[smallest] = empty


def _too_few(clusters: Sequence[str], wanted: int) -> str:
    groups = Counter(clusters)
    largest, count = groups.most_common(1)[0]
    return (
        f"The {len(clusters)} examples form {len(groups)} group(s) that must stay together, too few for {wanted} "
        f"splits; the largest ({largest}) holds {count}. Examples that share a document or ask the same are one group: "
        "give examples about more documents, leave out the document column, or ask for fewer splits."
    )
