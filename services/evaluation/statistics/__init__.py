"""Paired, clustered comparison of variants; pure NumPy and SciPy.

Verified by simulation: tests/unit/evaluation/test_statistics_simulated.py (short) and
tests/benchmarks/statistics_coverage.py (full table).
"""

from services.evaluation.statistics.clusters import BadSample
from services.evaluation.statistics.decision import Verdict, holm, verdict
from services.evaluation.statistics.means import MeanInterval, mean_interval, proportion_interval
from services.evaluation.statistics.paired import PairedDifference, paired_difference
from services.evaluation.statistics.power import ALPHA

__all__ = [
    "ALPHA",
    "BadSample",
    "MeanInterval",
    "PairedDifference",
    "Verdict",
    "holm",
    "mean_interval",
    "paired_difference",
    "proportion_interval",
    "verdict",
]
