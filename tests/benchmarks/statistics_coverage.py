"""Prints what the statistics achieve in simulation, as the Markdown table of docs/benchmarks.md.

Run: .venv/bin/python -m tests.benchmarks.statistics_coverage [--resamples 10000] [--experiments 4000]
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator

from tests.benchmarks.simulated_experiments import Regime, coverage, false_alarms, power, wilson_coverage

_SIZES = ((1, 1), (1, 3), (3, 3))
_RATES = ((0.5, 0.5), (0.2, 0.2), (0.8, 0.8), (0.8, 0.2), (0.65, 0.5), (0.3, 0.2))
_CORRELATIONS = ((0.0, 0.0), (0.2, 0.2), (0.4, 0.4), (0.1, 0.7))  # (within documents, shared by variants)
_ALARM_RESAMPLES = 2_000  # five bootstraps an experiment: enough for the limits to be compared with zero

INSIDE = [
    Regime(clusters, questions, *rates, *correlation)
    for clusters, questions, rates, correlation in itertools.product((40, 80, 120), _SIZES, _RATES, _CORRELATIONS)
]
OUTSIDE = {
    "10 documents": [Regime(10, q, *r) for q in _SIZES for r in _RATES],
    "20 documents": [Regime(20, q, *r) for q in _SIZES for r in _RATES],
    "40 documents, baseline 0, treated 0.05": [Regime(40, q, 0.05, 0.0005) for q in _SIZES],
    "120 documents, baseline 0, treated 0.05": [Regime(120, q, 0.05, 0.0005) for q in _SIZES],
    "40 documents, rates 0.95 and 0.90": [Regime(40, q, 0.95, 0.90) for q in _SIZES],
    "120 documents, rates 0.95 and 0.90": [Regime(120, q, 0.95, 0.90) for q in _SIZES],
    "40 documents, both rates 0.02": [Regime(40, q, 0.02, 0.02) for q in _SIZES],
    "120 documents, both rates 0.02": [Regime(120, q, 0.02, 0.02) for q in _SIZES],
    "40 documents, baseline 0, treated 0.5": [Regime(40, q, 0.5, 0.0005) for q in _SIZES],
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--experiments", type=int, default=4_000)
    options.add_argument("--resamples", type=int, default=10_000)
    chosen = options.parse_args()
    began = time.monotonic()
    print(f"{chosen.experiments} simulated experiments a cell; {chosen.resamples} resamples for coverage.\n")
    for block in (_coverage_table, _alarm_table, _power_table, _wilson_table):
        print("\n".join(block(chosen.experiments, chosen.resamples)), end="\n\n", flush=True)
    print(f"Took {time.monotonic() - began:.0f} s.")


def _coverage_table(experiments: int, resamples: int) -> Iterator[str]:
    yield "| regime | cells | 95 % interval: least | mean | most | cells outside 93-97 % | 90 % interval: mean |"
    yield "|---|---|---|---|---|---|---|"
    groups = {f"{k} documents, rates 0.2-0.8": [r for r in INSIDE if r.clusters == k] for k in (40, 80, 120)}
    strays = []
    for name, regimes in (groups | OUTSIDE).items():
        results = [
            coverage(regime, experiments=experiments, resamples=resamples, seed=seed)
            for seed, regime in enumerate(regimes)
        ]
        covered = [result.covered for result in results]
        out = [pair for pair in zip(regimes, results, strict=True) if not 0.93 <= pair[1].covered <= 0.97]
        strays += out if name in groups else []
        mean_90 = sum(result.covered_90 for result in results) / len(results)
        yield (
            f"| {name} | {len(results)} | {min(covered):.1%} | {sum(covered) / len(covered):.1%} | {max(covered):.1%} "
            f"| {len(out)} | {mean_90:.1%} |"
        )
    yield "\nCells inside the regime that miss 93-97 %: " + (
        "; ".join(f"{regime} {result.covered:.1%}" for regime, result in strays) or "none."
    )


def _alarm_table(experiments: int, resamples: int) -> Iterator[str]:
    used = min(resamples, _ALARM_RESAMPLES)
    yield f"False alarms ({used} resamples):\n"
    yield "| no true difference | one comparison: better | four under Holm: any better | any better or worse |"
    yield "|---|---|---|---|"
    for clusters, questions, rate in ((40, (1, 3), 0.5), (80, (1, 3), 0.2), (120, (1, 1), 0.8), (20, (1, 3), 0.5)):
        regime = Regime(clusters, questions, rate, rate)
        found = false_alarms(regime, variants=4, experiments=experiments, resamples=used, seed=7)
        yield (
            f"| {clusters} documents of {questions[0]}-{questions[1]} questions, rate {rate} | {found.one_better:.1%} "
            f"| {found.any_better:.1%} | {found.any_different:.1%} |"
        )


def _power_table(experiments: int, _resamples: int) -> Iterator[str]:
    yield "| true difference | smallest visible difference (mean) | share of experiments that saw it (p at most 0.05) |"
    yield "|---|---|---|"
    for treated in (0.40, 0.45, 0.50):
        seen, visible = power(Regime(100, (1, 3), treated, 0.3), experiments=experiments, seed=3)
        yield f"| {treated - 0.3:.2f} | {visible:.3f} | {seen:.1%} |"


def _wilson_table(experiments: int, _resamples: int) -> Iterator[str]:
    yield "| Wilson interval of one rate, 60 documents of 1-3 questions | covers |"
    yield "|---|---|"
    for within in (0.0, 0.2, 0.5):
        regime = Regime(60, (1, 3), 0.5, 0.5, within, 0.0)
        covered = wilson_coverage(regime, experiments=experiments, seed=5)
        yield f"| correlation within documents {within} | {covered:.1%} |"


if __name__ == "__main__":
    main()
