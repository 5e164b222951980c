"""Builds the report of an experiment from its variants' answers to the test split."""

from __future__ import annotations

from services.evaluation.metrics import METRICS
from services.evaluation.report.comparisons import compare_all, second_metric_of
from services.evaluation.report.inputs import ReportInputs, UnfitInputs, VariantInputs
from services.evaluation.report.model import Comparison, Gate, Report
from services.evaluation.report.sentences import metric_title, points
from services.evaluation.report.side_by_side import changed_examples
from services.evaluation.report.summaries import summarise, total_cost


def build_report(inputs: ReportInputs) -> Report:
    """Every number of the report; a pure function of its inputs.

    The gate says whether the winner may be released. Raises UnfitInputs when the variants did not answer
    the same questions, a name is unknown, or the primary metric cannot decide.
    """
    _check(inputs)
    comparisons = compare_all(inputs)
    gate = _gate(inputs, comparisons)
    regressions, improvements = changed_examples(inputs)
    return Report(
        experiment_id=inputs.experiment_id,
        name=inputs.name or inputs.experiment_id,
        summary=_summary(inputs, comparisons, gate),
        dataset=inputs.dataset,
        corpus=inputs.corpus,
        base_model=inputs.base_model,
        metric=inputs.metric,
        second_metric=second_metric_of(inputs),
        baseline=inputs.baseline,
        seed=inputs.seed,
        margin=inputs.margin,
        resamples=inputs.resamples,
        looks_at_test=inputs.looks_at_test,
        variants=[summarise(variant, inputs) for variant in inputs.variants],
        comparisons=comparisons,
        choices=list(inputs.choices),
        winner=inputs.winner,
        gate=gate,
        release=inputs.release,
        regressions=regressions,
        improvements=improvements,
        cost=total_cost(inputs),
        notes=list(inputs.notes),
        manifest=dict(inputs.manifest),
    )


def _gate(inputs: ReportInputs, comparisons: list[Comparison]) -> Gate:
    if inputs.winner is None:
        return Gate(passed=False, reason="No winner was chosen on validation.")
    if inputs.winner == inputs.baseline:
        return Gate(passed=False, reason=f"The baseline {inputs.baseline} won on validation: nothing to release.")
    found = _primary(comparisons, inputs.winner)
    confirmed = found.verdict == "better"
    if confirmed:
        return Gate(passed=True, reason=f"The test split confirms {inputs.winner}, the winner on validation.")
    said = f"The test split does not confirm {inputs.winner}, the winner on validation"
    return Gate(passed=False, reason=f"{said} ({found.verdict}), so it is not released.")


def _summary(inputs: ReportInputs, comparisons: list[Comparison], gate: Gate) -> str:
    if inputs.winner is None or inputs.winner == inputs.baseline:
        return gate.reason
    found = _primary(comparisons, inputs.winner)
    if not gate.passed:
        return found.sentence
    return (
        f"{found.variant} is better than {found.baseline}: {points(found.difference)} points of "
        f"{metric_title(found.metric)} (95 % interval {points(found.low)} to {points(found.high)})."
    )


def _primary(comparisons: list[Comparison], variant: str) -> Comparison:
    return next(found for found in comparisons if found.family == "primary" and found.variant == variant)


def _check(inputs: ReportInputs) -> None:
    names = [variant.name for variant in inputs.variants]
    if len(set(names)) != len(names):
        raise UnfitInputs(f"variant names must differ, got {names}")
    for role, name in (("baseline", inputs.baseline), ("winner", inputs.winner)):
        if name is not None and name not in names:
            raise UnfitInputs(f"the {role} {name!r} is not among the variants {names}")
    _check_metric(inputs.metric)
    baseline = next(variant for variant in inputs.variants if variant.name == inputs.baseline)
    if not baseline.records:
        raise UnfitInputs(f"the baseline {inputs.baseline!r} has no answers: evaluate it on the test split first")
    for variant in inputs.variants:
        _check_pairs(variant, baseline, inputs.metric)


def _check_metric(metric: str) -> None:
    known = METRICS.get(metric)
    if known is not None and not (known.share and known.more_is_better):
        raise UnfitInputs(f"{metric!r} cannot decide: the primary metric must lie in 0..1 with more being better")


def _check_pairs(variant: VariantInputs, baseline: VariantInputs, metric: str) -> None:
    clusters = {record.example_id: record.cluster for record in variant.records}
    expected = {record.example_id: record.cluster for record in baseline.records}
    if len(clusters) != len(variant.records):
        raise UnfitInputs(f"the variant {variant.name!r} answered an example twice: keep one answer per example")
    different = sorted(clusters.keys() ^ expected.keys())
    if different:
        raise UnfitInputs(
            f"the variants {variant.name!r} and {baseline.name!r} did not answer the same examples: "
            f"{len(different)} differ, such as {different[:5]}. Evaluate both on the same split."
        )
    moved = [example for example, cluster in clusters.items() if expected[example] != cluster]
    if moved:
        raise UnfitInputs(f"the example {moved[0]!r} has another cluster in {variant.name!r} than in the baseline")
    unscored = [record.example_id for record in variant.records if metric not in record.scores]
    if unscored:
        raise UnfitInputs(f"the variant {variant.name!r} has no {metric!r} for {unscored[0]!r}: score every example")
