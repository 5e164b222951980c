"""What report.json holds. Only finite numbers: a value that cannot be known is null and says why."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Family = Literal["primary", "secondary", "winner"]


class Part(BaseModel):
    """A frozen piece of the report; unknown fields and NaN are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Dataset(Part):
    """The frozen dataset; `sizes` counts examples per split."""

    id: str
    sha256: str
    sizes: dict[str, int]
    name: str = ""


class Corpus(Part):
    """The documents that retrieval searched."""

    id: str
    documents: int
    passages: int
    sha256: str | None = None


class Estimate(Part):
    """A mean over examples with its 95 % limits; `method` is explained in statistics/means.py."""

    mean: float
    low: float
    high: float
    method: Literal["wilson", "bootstrap", "exact", "none"]
    examples: int


class Slice(Part):
    """The primary and the second metric over the examples that share a metadata value."""

    examples: int
    metrics: dict[str, Estimate]


class Latency(Part):
    """Milliseconds per answer."""

    p50: float
    p95: float


class Tokens(Part):
    """Mean tokens per answer; `trained`: tokens seen in training, in all."""

    prompt: float
    completion: float
    trained: int


class ErrorSplit(Part):
    """Whose fault the wrong answers are, over questions with a known gold document.

    An answer is wrong when its primary score is below 1 (below 0.5 for graded metrics). Without the gold passage
    the error is retrieval's, with it generation's.
    """

    examples: int
    gold_found: int
    wrong: int
    wrong_without_gold: int
    wrong_with_gold: int


class Variant(Part):
    """One variant on the test split. slices: metadata field, then its value."""

    name: str
    model: str
    examples: int
    metrics: dict[str, Estimate]
    slices: dict[str, dict[str, Slice]]
    latency_ms: Latency
    tokens: Tokens
    train_seconds: float
    errors: ErrorSplit | None


class Comparison(Part):
    """One paired difference, `variant` minus `baseline`.

    family: `primary` (every variant against the baseline, primary metric), `secondary` (the same on the second
    metric) or `winner` (the winner against the other variants); p_holm is corrected within its family.
    low, high: 95 %; equivalence_low, equivalence_high: 90 %.
    smallest_visible_difference: null if this test set could not have shown any.
    """

    variant: str
    baseline: str
    metric: str
    family: Family
    difference: float
    low: float
    high: float
    equivalence_low: float
    equivalence_high: float
    p_value: float
    p_holm: float
    p_method: Literal["exact", "monte carlo"]
    verdict: Literal["better", "worse", "equivalent", "inconclusive"]
    degenerate: bool
    smallest_visible_difference: float | None
    examples: int
    clusters: int
    sentence: str


class Candidate(Part):
    """One candidate of a choice, with its score on validation."""

    name: str
    score: float
    detail: str = ""


class Choice(Part):
    """Something decided on the validation split, never on test."""

    what: str
    candidates: list[Candidate]
    chosen: str
    reason: str = ""


class Gate(Part):
    """Whether the winner may be released: only if the primary comparison on test says `better`."""

    passed: bool
    reason: str


class Release(Part):
    """The stable model id that now answers with the winner."""

    model: str
    variant: str
    id: str | None = None


class SideBySide(Part):
    """One question with every variant's answer. change: the winner's primary score minus the baseline's."""

    example_id: str
    slices: dict[str, str]
    question: str
    reference: str
    answers: dict[str, str]
    scores: dict[str, float]
    change: float


class Cost(Part):
    """What the experiment's training and test answers took, all variants together."""

    train_seconds: float
    trained_tokens: int
    answers: int
    prompt_tokens: int
    completion_tokens: int
    answer_seconds: float
    wall_seconds: float | None


class Report(Part):
    """The outcome of one experiment: who won, by how much, how sure, at what cost."""

    schema_version: Literal[1] = 1
    experiment_id: str
    name: str
    summary: str
    dataset: Dataset
    corpus: Corpus | None
    base_model: str
    metric: str
    second_metric: str | None
    baseline: str
    seed: int
    margin: float
    resamples: int
    looks_at_test: int
    variants: list[Variant]
    comparisons: list[Comparison]
    choices: list[Choice]
    winner: str | None
    gate: Gate
    release: Release | None
    regressions: list[SideBySide]
    improvements: list[SideBySide]
    cost: Cost
    notes: list[str]
    manifest: dict[str, Any] = Field(default_factory=dict)

    def comparison(self, variant: str) -> Comparison:
        """The primary comparison of a variant with the baseline. Raises LookupError."""
        for found in self.comparisons:
            if found.family == "primary" and found.variant == variant:
                return found
        raise LookupError(f"{variant!r} is not among the variants compared with {self.baseline!r}")

    def with_release(self, release: Release | None) -> Report:
        """The same report, once its winner is served."""
        return self.model_copy(update={"release": release})
