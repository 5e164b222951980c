"""The questions where the winner and the baseline differ most, every variant's answer beside the reference."""

from __future__ import annotations

from collections import Counter

from services.evaluation.report.inputs import ReportInputs
from services.evaluation.report.model import SideBySide

REGRESSIONS, IMPROVEMENTS = 10, 5


def changed_examples(inputs: ReportInputs) -> tuple[list[SideBySide], list[SideBySide]]:
    """(worst regressions, best improvements) of the winner against the baseline; both empty without a winner."""
    if inputs.winner in (None, inputs.baseline):
        return [], []
    changes = sorted(_all_changes(inputs), key=lambda found: (found.change, found.example_id))
    worst = [found for found in changes if found.change < 0]
    best = [found for found in reversed(changes) if found.change > 0]
    return worst[:REGRESSIONS], _spread(best)[:IMPROVEMENTS]


def _all_changes(inputs: ReportInputs) -> list[SideBySide]:
    answers = {variant.name: {record.example_id: record for record in variant.records} for variant in inputs.variants}
    found = []
    for record in answers[inputs.baseline].values():
        each = {name: records[record.example_id] for name, records in answers.items()}
        scores = {name: one.scores[inputs.metric] for name, one in each.items()}
        found.append(
            SideBySide(
                example_id=record.example_id,
                slices=dict(record.slices),
                question=record.question,
                reference=record.reference,
                answers={name: one.answer for name, one in each.items()},
                scores=scores,
                change=scores[str(inputs.winner)] - scores[inputs.baseline],
            )
        )
    return found


def _spread(examples: list[SideBySide]) -> list[SideBySide]:
    """The same examples, new answers and slices first: five alike teach less than five kinds."""
    references: set[str] = set()
    in_slice: Counter[tuple[str, ...]] = Counter()
    ranked = []
    for example in examples:
        kind = tuple(example.slices.values())
        ranked.append((example.reference in references, in_slice[kind], example))
        references.add(example.reference)
        in_slice[kind] += 1
    return [example for *_rank, example in sorted(ranked, key=lambda entry: entry[:2])]
