"""Every comparison of an experiment, family by family, each p-value corrected within its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from services.evaluation.report.inputs import ExampleRecord, ReportInputs, VariantInputs
from services.evaluation.report.model import Comparison, Family
from services.evaluation.report.sentences import sentence
from services.evaluation.statistics import holm, paired_difference

Pair = tuple[VariantInputs, VariantInputs]


def compare_all(inputs: ReportInputs) -> list[Comparison]:
    """The primary family, the secondary one (where all examples have that score), and the winner's."""
    by_name = {variant.name: variant for variant in inputs.variants}
    baseline = by_name[inputs.baseline]
    against_baseline = [(variant, baseline) for variant in inputs.variants if variant is not baseline]
    families: list[list[Comparison]] = [_family(inputs, "primary", inputs.metric, against_baseline)]
    if second_metric_of(inputs):
        families.append(_family(inputs, "secondary", inputs.second_metric, against_baseline))
    if inputs.winner and inputs.winner != inputs.baseline:
        winner = by_name[inputs.winner]
        others = [(winner, other) for other in inputs.variants if other not in (winner, baseline)]
        families.append(_family(inputs, "winner", inputs.metric, others))
    return list(chain.from_iterable(families))


def second_metric_of(inputs: ReportInputs) -> str | None:
    """The second metric, if it is another one and every answer has it."""
    records = chain.from_iterable(variant.records for variant in inputs.variants)
    scored = all(inputs.second_metric in record.scores for record in records)
    return inputs.second_metric if scored and inputs.second_metric != inputs.metric else None


def aligned(variant: VariantInputs, order: Sequence[ExampleRecord]) -> list[ExampleRecord]:
    """The variant's records in the order of another's."""
    found = {record.example_id: record for record in variant.records}
    return [found[record.example_id] for record in order]


def _family(inputs: ReportInputs, family: Family, metric: str, pairs: Sequence[Pair]) -> list[Comparison]:
    measured = []
    for treated, baseline in pairs:
        before = baseline.records
        after = aligned(treated, before)
        measured.append(
            paired_difference(
                [record.scores[metric] for record in after],
                [record.scores[metric] for record in before],
                [record.cluster for record in before],
                seed=inputs.seed,
                resamples=inputs.resamples,
                margin=inputs.margin,
            )
        )
    corrected = holm([difference.p_value for difference in measured])
    return [
        Comparison(
            variant=treated.name,
            baseline=baseline.name,
            metric=metric,
            family=family,
            difference=found.difference,
            low=found.low,
            high=found.high,
            equivalence_low=found.equivalence_low,
            equivalence_high=found.equivalence_high,
            p_value=found.p_value,
            p_holm=p_holm,
            p_method=found.p_method,
            verdict=found.verdict(p_holm),
            degenerate=found.degenerate,
            smallest_visible_difference=found.smallest_visible_difference,
            examples=found.examples,
            clusters=found.clusters,
            sentence=sentence(found, p_holm, variant=treated.name, baseline=baseline.name, metric=metric),
        )
        for (treated, baseline), found, p_holm in zip(pairs, measured, corrected, strict=True)
    ]
