"""What a report is built from: plain values that the experiment gathers, nothing looked up later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.evaluation.report.model import Choice, Corpus, Dataset, Release


class UnfitInputs(ValueError):
    """The variants cannot be compared as given; the message names the variant and the examples."""


@dataclass(frozen=True)
class ExampleRecord:
    """One variant's answer to one test question.

    cluster: the source document, the unit of resampling; slices: metadata to report by (such as kind);
    scores: metric to score, where every example has the primary one; retrieval_hit: whether a gold passage was
    among the retrieved, None where nothing was retrieved or no gold document is known.
    """

    example_id: str
    cluster: str
    question: str
    reference: str
    answer: str
    scores: Mapping[str, float]
    latency_ms: float
    prompt_tokens: int
    completion_tokens: int
    slices: Mapping[str, str] = field(default_factory=dict)
    retrieval_hit: bool | None = None


@dataclass(frozen=True)
class VariantInputs:
    """One variant with its answers to the test split; `model` is the id that clients call."""

    name: str
    model: str
    records: Sequence[ExampleRecord]
    train_seconds: float = 0.0
    trained_tokens: int = 0


@dataclass(frozen=True)
class ReportInputs:
    """Everything a report says or is computed from.

    variants: in the order to show them, the baseline among them; metric: the primary one (0..1, more is better);
    winner: chosen on validation; choices: what else was chosen there; notes: whole sentences for the reader;
    manifest: versions, hashes, code commit, as JSON values.
    """

    experiment_id: str
    dataset: Dataset
    corpus: Corpus | None
    base_model: str
    variants: Sequence[VariantInputs]
    seed: int
    looks_at_test: int
    manifest: Mapping[str, Any]
    name: str = ""
    baseline: str = "base"
    winner: str | None = None
    release: Release | None = None
    choices: Sequence[Choice] = ()
    notes: Sequence[str] = ()
    metric: str = "exact_match"
    second_metric: str = "token_f1"
    margin: float = 0.02
    resamples: int = 10_000
    wall_seconds: float | None = None
