"""Simulated experiments of which the truth is known, to hold the statistics to what they claim.

Answers are right or wrong. A latent normal score mixes the document (`within`), the question's own difficulty
(`shared` between the variants) and luck; it is cut where the variant's rate demands. Half of `within` is shared by
the variants, half is each variant's own feeling for the document, so differences correlate inside documents too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from services.evaluation.statistics import holm, proportion_interval, verdict
from services.evaluation.statistics.bootstrap import bootstrap_limits
from services.evaluation.statistics.clusters import ClusterSums, Floats
from services.evaluation.statistics.exact import all_alike_interval
from services.evaluation.statistics.permutation import sign_flip_p_value
from services.evaluation.statistics.power import smallest_visible_difference

LEVELS = (0.95, 0.90)
_CHUNK = 250  # experiments that share cluster sizes and bootstrap draws
_EDGE = 1e-9  # a limit on the truth itself covers it


@dataclass(frozen=True)
class Regime:
    """One kind of experiment: how many documents, questions per document, true rates, and what correlates."""

    clusters: int
    questions: tuple[int, int]  # per document, drawn uniformly between these
    treated: float
    baseline: float
    within: float = 0.2
    shared: float = 0.2

    @property
    def truth(self) -> float:
        return self.treated - self.baseline

    def sizes(self, rng: np.random.Generator) -> Floats:
        low, high = self.questions
        return rng.integers(low, high + 1, size=self.clusters).astype(np.float64)


@dataclass(frozen=True)
class Coverage:
    """Shares of experiments whose 95 % interval held the truth, or lay above or below it."""

    covered: float
    above: float
    below: float
    covered_90: float
    degenerate: float


def simulated_answers(
    regime: Regime, rates: Sequence[float], sizes: Floats, experiments: int, seed: int
) -> list[Floats]:
    """Right (1) or wrong (0) per variant, question and experiment: a list of (N, E), one array per rate."""
    rng = np.random.default_rng(seed)
    member = np.repeat(np.arange(len(sizes)), sizes.astype(int))
    document = rng.standard_normal((len(sizes), experiments))[member]
    question = rng.standard_normal((len(member), experiments))
    common = np.sqrt(regime.within / 2) * document + np.sqrt(regime.shared) * question
    answers = []
    for rate in rates:
        feeling = rng.standard_normal((len(sizes), experiments))[member]
        luck = rng.standard_normal((len(member), experiments))
        latent = common + np.sqrt(regime.within / 2) * feeling + np.sqrt(1 - regime.within - regime.shared) * luck
        answers.append((latent < special.ndtri(rate)).astype(np.float64))
    return answers


def cluster_sums(values: Floats, sizes: Floats) -> Floats:
    """(N, E) values to (K, E) sums."""
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(int)
    return np.add.reduceat(values, starts, axis=0)


def limits(sums: Floats, sizes: Floats, resamples: int, rng: np.random.Generator) -> list[tuple[Floats, Floats]]:
    """The product's 95 % and 90 % intervals of every experiment, its exact ones where clusters are all alike."""
    found = bootstrap_limits(sums, sizes, LEVELS, resamples, rng)
    for column in np.flatnonzero(all_alike(sums, sizes)):
        for level, (low, high) in zip(LEVELS, found, strict=True):
            mean = float(sums[:, column].sum() / sizes.sum())
            low[column], high[column] = all_alike_interval(mean, len(sizes), level, (-1.0, 1.0))
    return found


def all_alike(sums: Floats, sizes: Floats) -> np.ndarray:
    return np.array([ClusterSums(column, sizes).all_alike for column in sums.T])


def coverage(regime: Regime, *, experiments: int, resamples: int, seed: int) -> Coverage:
    """How often the interval of the difference holds the true one."""
    rng = np.random.default_rng(seed)
    tallies = []
    for start in range(0, experiments, _CHUNK):
        sizes = regime.sizes(rng)
        after, before = simulated_answers(regime, [regime.treated, regime.baseline], sizes, _CHUNK, seed + start + 1)
        sums = cluster_sums(after - before, sizes)
        (low, high), (low_90, high_90) = limits(sums, sizes, resamples, rng)
        above, below = low > regime.truth + _EDGE, high < regime.truth - _EDGE
        outside_90 = (low_90 > regime.truth + _EDGE) | (high_90 < regime.truth - _EDGE)
        tallies.append([x.mean() for x in (~(above | below), above, below, ~outside_90, all_alike(sums, sizes))])
    return Coverage(*(float(share) for share in np.mean(tallies, axis=0)))


@dataclass(frozen=True)
class FalseAlarms:
    """Shares of experiments without any true difference that still said something."""

    one_better: float  # one comparison, alone
    any_better: float  # any of the family, corrected
    any_different: float  # any better or worse of the family, corrected


def false_alarms(regime: Regime, *, variants: int, experiments: int, resamples: int, seed: int) -> FalseAlarms:
    """How often `better` is said of variants that are all as good as the baseline (rate: regime.baseline)."""
    rng = np.random.default_rng(seed)
    tallies = []
    for start in range(0, experiments, _CHUNK):
        sizes = regime.sizes(rng)
        rates = [regime.baseline] * (variants + 1)
        before, *others = simulated_answers(regime, rates, sizes, _CHUNK, seed + start + 1)
        family = [cluster_sums(after - before, sizes) for after in others]
        intervals = [limits(sums, sizes, resamples, rng) for sums in family]
        for experiment in range(_CHUNK):
            p_values = [sign_flip_p_value(sums[:, experiment], resamples, rng)[0] for sums in family]
            said = [_verdict(interval, experiment, p) for interval, p in zip(intervals, holm(p_values), strict=True)]
            alone = _verdict(intervals[0], experiment, p_values[0])
            tallies.append([alone == "better", "better" in said, bool({"better", "worse"} & set(said))])
    return FalseAlarms(*(float(share) for share in np.mean(tallies, axis=0)))


def _verdict(interval: list[tuple[Floats, Floats]], experiment: int, p_holm: float) -> str:
    (low, high), (low_90, high_90) = interval
    return verdict(
        p_holm=p_holm,
        low=low[experiment],
        high=high[experiment],
        equivalence_low=low_90[experiment],
        equivalence_high=high_90[experiment],
        margin=0.02,
    )


def power(regime: Regime, *, experiments: int, seed: int) -> tuple[float, float]:
    """The share of experiments that reject at 5 %, and the mean of the smallest difference they call visible."""
    rng = np.random.default_rng(seed)
    sizes = regime.sizes(rng)
    after, before = simulated_answers(regime, [regime.treated, regime.baseline], sizes, experiments, seed + 1)
    sums = cluster_sums(after - before, sizes)
    rejected = [sign_flip_p_value(column, 1_000, rng)[0] <= 0.05 for column in sums.T]
    visible = [smallest_visible_difference(ClusterSums(column, sizes)) or 1.0 for column in sums.T]
    return float(np.mean(rejected)), float(np.mean(visible))


def wilson_coverage(regime: Regime, *, experiments: int, seed: int) -> float:
    """How often Wilson's interval of the treated rate holds it, though questions of one document correlate."""
    rng = np.random.default_rng(seed)
    sizes = regime.sizes(rng)
    [answers] = simulated_answers(regime, [regime.treated], sizes, experiments, seed + 1)
    intervals = [proportion_interval(int(right), len(answers)) for right in answers.sum(axis=0)]
    return float(np.mean([low <= regime.treated <= high for low, high in intervals]))
