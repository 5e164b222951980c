"""The statistics hold what they promise in 4,000 simulated experiments each (1,000 resamples; all else as in use).

The full table with 10,000 resamples: python -m tests.benchmarks.statistics_coverage.
"""

import pytest

from tests.benchmarks.simulated_experiments import Regime, coverage, false_alarms, power

EXPERIMENTS = 4_000
# three standard errors of a share of 5 % over 4,000 experiments
NOISE = 3 * (0.05 * 0.95 / EXPERIMENTS) ** 0.5


@pytest.mark.parametrize(
    "regime",
    [
        Regime(40, (1, 1), 0.2, 0.2, within=0.1, shared=0.7),  # few answers differ: plain BCa covers 92 % here
        Regime(40, (1, 1), 0.5, 0.5),
        Regime(40, (1, 3), 0.3, 0.2, within=0.4, shared=0.4),
        Regime(40, (1, 3), 0.8, 0.2),
        Regime(40, (3, 3), 0.8, 0.8),
        Regime(60, (1, 2), 0.65, 0.5, within=0.6, shared=0.1),
        Regime(120, (1, 3), 0.77, 0.31),
        Regime(120, (1, 3), 0.2, 0.2, within=0.0, shared=0.0),
    ],
    ids=str,
)
def test_covers_the_true_difference_in_93_to_97_of_100_experiments(regime):
    found = coverage(regime, experiments=EXPERIMENTS, resamples=1_000, seed=11)
    assert 0.93 <= found.covered <= 0.97
    assert 0.87 <= found.covered_90 <= 0.94


@pytest.mark.parametrize("regime", [Regime(40, (1, 3), 0.5, 0.5), Regime(100, (1, 2), 0.2, 0.2)], ids=str)
def test_says_better_of_equals_in_at_most_5_of_100_experiments(regime):
    found = false_alarms(regime, variants=4, experiments=EXPERIMENTS, resamples=1_000, seed=12)
    assert 0 < found.one_better <= 0.05 + NOISE
    assert 0 < found.any_better <= 0.05 + NOISE
    assert 0 < found.any_different <= 0.05 + NOISE


def test_sees_the_smallest_visible_difference_in_about_80_of_100_experiments():
    regime = Regime(100, (1, 3), 0.425, 0.3)
    seen, visible = power(regime, experiments=2_000, seed=13)
    assert visible == pytest.approx(regime.truth, abs=0.005)
    assert 0.74 <= seen <= 0.84
