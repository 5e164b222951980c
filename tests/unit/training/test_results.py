"""The result file is CSV that any reader takes, in OpenAI's columns."""

import csv
import io

from services.training.results import result_csv


def test_writes_a_line_per_step_and_leaves_empty_what_was_not_measured() -> None:
    steps = [
        {"step": 1, "train_loss": 2.5, "train_mean_token_accuracy": 0.25, "seconds": 1.0},
        {
            "step": 2,
            "train_loss": 1e-7,
            "train_mean_token_accuracy": 1.0,
            "valid_loss": 0.125,
            "valid_mean_token_accuracy": 0.5,
        },
    ]
    text = b"".join(result_csv(steps)).decode()
    assert text.splitlines()[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    first, second = csv.DictReader(io.StringIO(text))
    assert (first["step"], first["train_loss"], first["train_accuracy"], first["valid_loss"]) == (
        "1",
        "2.5",
        "0.25",
        "",
    )
    assert (float(second["train_loss"]), second["valid_loss"]) == (1e-7, "0.125")


def test_a_run_without_steps_leaves_the_header() -> None:
    assert b"".join(result_csv([])).count(b"\n") == 1
