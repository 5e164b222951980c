"""What the route of an experiment's report answers, for the API's description."""

from typing import Any

from pydantic import ConfigDict

from services.evaluation.report import Report
from shared.answers import Answer

A_REPORT: dict[str, Any] = {
    "schema_version": 1,
    "experiment_id": "exp_abc",
    "name": "tickets",
    "summary": "tuned answers 21.0 points more of the questions than base.",
    "dataset": {
        "id": "ds_abc",
        "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "sizes": {"train": 400, "validation": 100, "test": 100},
        "name": "tickets",
    },
    "corpus": None,
    "base_model": "smollm2-135m-instruct",
    "metric": "exact_match",
    "second_metric": None,
    "baseline": "base",
    "seed": 0,
    "margin": 0.02,
    "resamples": 10000,
    "looks_at_test": 1,
    "variants": [
        {
            "name": "tuned",
            "model": "var_abc",
            "examples": 100,
            "metrics": {
                "exact_match": {
                    "mean": 0.83,
                    "low": 0.74,
                    "high": 0.89,
                    "method": "wilson",
                    "examples": 100,
                }
            },
            "slices": {},
            "latency_ms": {"p50": 120.0, "p95": 310.5},
            "tokens": {"prompt": 48.2, "completion": 3.1, "trained": 64200},
            "train_seconds": 412.0,
            "errors": None,
        }
    ],
    "comparisons": [
        {
            "variant": "tuned",
            "baseline": "base",
            "metric": "exact_match",
            "family": "primary",
            "difference": 0.21,
            "low": 0.11,
            "high": 0.31,
            "equivalence_low": 0.13,
            "equivalence_high": 0.29,
            "p_value": 0.0004,
            "p_holm": 0.0004,
            "p_method": "exact",
            "verdict": "better",
            "degenerate": False,
            "smallest_visible_difference": 0.08,
            "examples": 100,
            "clusters": 100,
            "sentence": "tuned is better than base by 21.0 points (11.0 to 31.0).",
        }
    ],
    "choices": [
        {
            "what": "winner",
            "candidates": [{"name": "tuned", "score": 0.81, "detail": "100 questions"}],
            "chosen": "tuned",
            "reason": "The best on validation; of equals the cheaper.",
        }
    ],
    "winner": "tuned",
    "gate": {"passed": True, "reason": "On test the winner is better than the baseline."},
    "release": {"model": "tickets", "variant": "tuned", "id": "rel_abc"},
    "regressions": [],
    "improvements": [
        {
            "example_id": "ex_abc",
            "slices": {},
            "question": "My screen is black.",
            "reference": "Hardware",
            "answers": {"base": "Have you tried another cable?", "tuned": "Hardware"},
            "scores": {"base": 0.0, "tuned": 1.0},
            "change": 1.0,
        }
    ],
    "cost": {
        "train_seconds": 412.0,
        "trained_tokens": 64200,
        "answers": 200,
        "prompt_tokens": 9640,
        "completion_tokens": 620,
        "answer_seconds": 31.5,
        "wall_seconds": 655.2,
    },
    "notes": ["Latencies are those of many questions at once on this machine."],
    "manifest": {"code_commit": "aee7fc2", "seed": 0},
}


class ExperimentReport(Report, Answer):
    """The outcome of one experiment: who won, by how much, how sure, at what cost."""

    model_config = ConfigDict(json_schema_extra={"examples": [A_REPORT]})
