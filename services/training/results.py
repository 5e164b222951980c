"""The result file: one raw CSV line per optimiser step, in OpenAI's columns."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

FILENAME = "step_metrics.csv"
PURPOSE = "fine-tune-results"
_COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
}
"""The file's columns, and what the metrics events call them."""


def result_csv(steps: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """The header and a line per step; what was not measured is empty."""
    yield _line(_COLUMNS)
    for step in steps:
        yield _line(step.get(name, "") for name in _COLUMNS.values())


def _line(values: Iterable[Any]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue().encode()
