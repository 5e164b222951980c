"""One variant on its own: means with intervals, slices, latency, tokens and whose fault the errors are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from services.evaluation.metrics import METRICS
from services.evaluation.report.comparisons import second_metric_of
from services.evaluation.report.inputs import ExampleRecord, ReportInputs, VariantInputs
from services.evaluation.report.model import Cost, ErrorSplit, Estimate, Latency, Slice, Tokens, Variant
from services.evaluation.statistics import mean_interval

_MOST_SLICES = 12  # a field with more values than this is an id, not a slice


def summarise(variant: VariantInputs, inputs: ReportInputs) -> Variant:
    """The variant as the report shows it."""
    records = variant.records
    metrics = dict.fromkeys(name for record in records for name in record.scores)
    return Variant(
        name=variant.name,
        model=variant.model,
        examples=len(records),
        metrics={name: _estimate(name, records, inputs) for name in metrics},
        slices=_slices(records, inputs),
        latency_ms=_latency(records),
        tokens=Tokens(
            prompt=float(np.mean([record.prompt_tokens for record in records])),
            completion=float(np.mean([record.completion_tokens for record in records])),
            trained=variant.trained_tokens,
        ),
        train_seconds=variant.train_seconds,
        errors=_error_split(records, inputs.metric),
    )


def total_cost(inputs: ReportInputs) -> Cost:
    """Sums over all variants of the test split."""
    records = [record for variant in inputs.variants for record in variant.records]
    return Cost(
        train_seconds=sum(variant.train_seconds for variant in inputs.variants),
        trained_tokens=sum(variant.trained_tokens for variant in inputs.variants),
        answers=len(records),
        prompt_tokens=sum(record.prompt_tokens for record in records),
        completion_tokens=sum(record.completion_tokens for record in records),
        answer_seconds=sum(record.latency_ms for record in records) / 1_000,
        wall_seconds=inputs.wall_seconds,
    )


def is_wrong(score: float, metric: str) -> bool:
    """Below 1 for a metric of 0 and 1, below one half for a graded one."""
    binary = metric in METRICS and METRICS[metric].binary
    return score < (1.0 if binary else 0.5)


def _estimate(metric: str, records: Iterable[ExampleRecord], inputs: ReportInputs) -> Estimate:
    """Over the examples that have the metric: retrieval's exist only where a gold document is known."""
    scored = [(record.scores[metric], record.cluster) for record in records if metric in record.scores]
    values, clusters = zip(*scored, strict=True)
    known = METRICS.get(metric)
    found = mean_interval(
        values,
        clusters,
        proportion=known is not None and known.binary,
        bounds=(0.0, 1.0) if known is None or known.share else None,
        seed=inputs.seed,
        resamples=inputs.resamples,
    )
    return Estimate(mean=found.mean, low=found.low, high=found.high, method=found.method, examples=len(values))


def _slices(records: Sequence[ExampleRecord], inputs: ReportInputs) -> dict[str, dict[str, Slice]]:
    groups: dict[str, dict[str, list[ExampleRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        for name, value in record.slices.items():
            groups[name][value].append(record)
    metrics = [metric for metric in (inputs.metric, second_metric_of(inputs)) if metric]
    return {
        name: {
            value: Slice(examples=len(members), metrics={m: _estimate(m, members, inputs) for m in metrics})
            for value, members in sorted(values.items())
        }
        for name, values in sorted(groups.items())
        if 1 < len(values) <= _MOST_SLICES
    }


def _latency(records: Sequence[ExampleRecord]) -> Latency:
    p50, p95 = np.percentile([record.latency_ms for record in records], [50, 95])
    return Latency(p50=float(p50), p95=float(p95))


def _error_split(records: Sequence[ExampleRecord], metric: str) -> ErrorSplit | None:
    known = [record for record in records if record.retrieval_hit is not None]
    if not known:
        return None
    wrong = [record for record in known if is_wrong(record.scores[metric], metric)]
    with_gold = sum(bool(record.retrieval_hit) for record in wrong)
    return ErrorSplit(
        examples=len(known),
        gold_found=sum(bool(record.retrieval_hit) for record in known),
        wrong=len(wrong),
        wrong_without_gold=len(wrong) - with_gold,
        wrong_with_gold=with_gold,
    )
