"""Prints the doctor's confusion matrix over real runs of a tiny model that are made sick on purpose, as Markdown.

Run: .venv/bin/python -m tests.benchmarks.doctor_study [--seeds 10] [--first-seed 2000] [--processes 1] [--remedies]

The rules' limits were chosen while looking at seeds 1000 to 1004; the study's seeds begin at 2000. With `--remedies`
every sick run is trained again with its finding's recipe difference, and the change of the validation loss is shown.
"""

import argparse
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from services.training.doctor.diagnosis import diagnose
from tests.factories.general_model import general_model
from tests.factories.sick_runs import ILLNESSES, run

_NEEDED = 0.9
_FIRST_SEED = 2000


class Work(NamedTuple):
    folder: Path
    name: str
    seed: int
    remedies: bool


class Outcome(NamedTuple):
    """All verdicts, the weightiest first, and by how much the right one's remedy changed two losses: the best of
    validation, and that on general questions."""

    verdicts: tuple[str, ...]
    change: float | None = None
    general: float | None = None


def main() -> int:
    """Exit status 0 if at least nine of ten seeds of every sickness are named and every healthy run is left alone."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=10)
    options.add_argument("--first-seed", type=int, default=_FIRST_SEED)
    options.add_argument("--processes", type=int, default=1)
    options.add_argument("--remedies", action="store_true")
    chosen = options.parse_args()
    began = time.monotonic()
    general_model()
    with TemporaryDirectory() as folder:
        seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
        work = [Work(Path(folder), name, seed, chosen.remedies) for name in ILLNESSES for seed in seeds]
        with ProcessPoolExecutor(chosen.processes, mp_context=get_context("spawn")) as pool:
            outcomes = list(pool.map(outcome, work))
    by_name = {name: [out for one, out in zip(work, outcomes, strict=True) if one.name == name] for name in ILLNESSES}
    print("\n".join(table(by_name)))
    if chosen.remedies:
        print("\n".join(gains(by_name)))
    print(f"\n{chosen.seeds} seeds from {chosen.first_seed}; took {time.monotonic() - began:.0f} s.")
    right = {
        name: sum(out.verdicts[0] == ILLNESSES[name].verdict for out in by_name[name]) / chosen.seeds
        for name in ILLNESSES
    }
    sick = [share for name, share in right.items() if ILLNESSES[name].verdict != "healthy"]
    healthy = [share for name, share in right.items() if ILLNESSES[name].verdict == "healthy"]
    return int(min(healthy) < 1 or min(sick) < _NEEDED)


def table(outcomes: dict[str, list[Outcome]]) -> list[str]:
    """A row for what was done to the runs, a column for each verdict, and what else the diagnoses found."""
    said = list(dict.fromkeys([*(one.verdict for one in ILLNESSES.values()), *_firsts(outcomes)]))
    head = ["| made | " + " | ".join(said) + " | also found |", "|---" * (len(said) + 2) + "|"]
    rows = []
    for name, found in outcomes.items():
        first = Counter(out.verdicts[0] for out in found)
        also = Counter(verdict for out in found for verdict in out.verdicts[1:])
        cells = [f"**{first[one]}**" if one == ILLNESSES[name].verdict else str(first[one] or "") for one in said]
        rows.append(f"| {name} | {' | '.join(cells)} | {', '.join(f'{n} × {one}' for one, n in also.items())} |")
    return head + rows


def _firsts(outcomes: dict[str, list[Outcome]]) -> list[str]:
    return [out.verdicts[0] for found in outcomes.values() for out in found]


def gains(outcomes: dict[str, list[Outcome]]) -> list[str]:
    """What the remedies did to the losses, in nats: below zero is better.

    Where answers were too long, the remedied run is also validated on these.
    """
    head = [
        "",
        "| made | remedies trained | validation loss, median change | best | worst | general questions, median |",
    ]
    head.append("|---" * 6 + "|")
    rows = []
    for name, found in outcomes.items():
        changes = sorted(out.change for out in found if out.change is not None)
        if changes:
            general = median(out.general for out in found if out.general is not None)
            middle, best, worst = (f"{change:+.3f}" for change in (median(changes), changes[0], changes[-1]))
            rows.append(f"| {name} | {len(changes)} | {middle} | {best} | {worst} | {general:+.3f} |")
    return head + rows


def outcome(work: Work) -> Outcome:
    """Train one run and diagnose it, and train it again with the remedy where it is asked for and was found."""
    base, illness = general_model(), ILLNESSES[work.name]
    facts = run(base, work.folder / f"{work.name}-{work.seed}", illness, work.seed)
    found = diagnose(facts)
    verdicts = tuple(finding.verdict for finding in found.findings) or (found.verdict,)
    right = next((finding for finding in found.findings if finding.verdict == illness.verdict), None)
    if not work.remedies or right is None or facts.best is None:
        return Outcome(verdicts)
    cured = replace(illness, recipe=illness.recipe | dict(right.remedy))
    again = run(base, work.folder / f"{work.name}-{work.seed}-again", cured, work.seed)
    change = again.best and again.best.valid_loss - facts.best.valid_loss
    general = again.probed and facts.probed and again.probed.after - facts.probed.after
    return Outcome(verdicts, change, general)


if __name__ == "__main__":
    raise SystemExit(main())
