"""The quality report: what an import found, in counts with a few samples each, and warnings in plain words."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from services.data.domain import SPLITS, Example, Placed
from services.data.duplicates import NearPair, Repeat
from services.data.leakage import leakage
from services.data.normalise import answer_key, comparison_key

_SAMPLES = 10
_SMALL_TEST = 50
_LARGE_CLUSTER = 0.2


def quality_report(
    placed: Sequence[Placed], repeats: Sequence[Repeat], near: Sequence[NearPair], *, long_chars: int
) -> dict[str, Any]:
    """Everything worth knowing about a dataset before training on it; lengths are in characters."""
    examples = [one.example for one in placed]
    report: dict[str, Any] = {
        "rows_read": len(examples) + len(repeats),
        "examples": len(examples),
        "exact_duplicates": {
            "count": len(repeats),
            "samples": [{"line": repeat.line, "same_as_line": repeat.same_as} for repeat in repeats[:_SAMPLES]],
        },
        "near_duplicates": _near(examples, near),
        "label_conflicts": _conflicts(examples),
        "lengths": {
            "question": _distribution([len(example.question) for example in examples]),
            "answer": _distribution([len(example.answer) for example in examples]),
        },
        "too_long": _too_long(examples, long_chars),
        "documents": {
            "distinct": len({name for example in examples for name in example.documents}),
            "examples_without": sum(not example.documents for example in examples),
        },
        "kinds": dict(sorted(Counter(example.kind for example in examples).items())),
        "clusters": _clusters(placed),
        "splits": {split: _split(placed, split) for split in SPLITS},
        "leakage": leakage(placed, near),
    }
    return report | {"warnings": _warnings(report)}


def _near(examples: Sequence[Example], near: Sequence[NearPair]) -> dict[str, Any]:
    return {
        "pairs": len(near),
        "pairs_with_different_answers": sum(not pair.same_answer for pair in near),
        "samples": [
            {
                "lines": [examples[pair.first].line, examples[pair.second].line],
                "questions": [examples[pair.first].question[:200], examples[pair.second].question[:200]],
                "same_answer": pair.same_answer,
            }
            for pair in near[:_SAMPLES]
        ],
    }


def _conflicts(examples: Iterable[Example]) -> dict[str, Any]:
    """The same question with different answers: a model cannot learn both."""
    asked: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        asked[comparison_key(example.question) or example.question].append(example)
    torn = [group for group in asked.values() if len({answer_key(example.answer) for example in group}) > 1]
    samples = [
        {
            "question": group[0].question[:200],
            "answers": [example.answer[:100] for example in group[:5]],
            "lines": [example.line for example in group[:5]],
        }
        for group in torn[:_SAMPLES]
    ]
    return {"questions": len(torn), "examples": sum(map(len, torn)), "samples": samples}


def _distribution(lengths: Sequence[int]) -> dict[str, float]:
    ordered = sorted(lengths)

    def at(share: float) -> int:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    mean = round(sum(ordered) / len(ordered), 1)
    return {"min": ordered[0], "p50": at(0.5), "p95": at(0.95), "max": ordered[-1], "mean": mean}


def _too_long(examples: Iterable[Example], limit: int) -> dict[str, Any]:
    lines = [example.line for example in examples if len(example.question) + len(example.answer) > limit]
    return {"count": len(lines), "limit_chars": limit, "lines": lines[:_SAMPLES]}


def _clusters(placed: Sequence[Placed]) -> dict[str, Any]:
    counted = Counter(one.cluster for one in placed)
    name, count = counted.most_common(1)[0]
    return {"count": len(counted), "largest": {"name": name, "examples": count}}


def _split(placed: Iterable[Placed], split: str) -> dict[str, Any]:
    inside = [one for one in placed if one.split == split]
    return {
        "examples": len(inside),
        "clusters": len({one.cluster for one in inside}),
        "kinds": dict(sorted(Counter(one.example.kind for one in inside).items())),
    }


def _warnings(report: dict[str, Any]) -> list[str]:
    said = []
    total = report["examples"]
    if report["label_conflicts"]["questions"]:
        said.append(f"{report['label_conflicts']['questions']} question(s) have several different answers.")
    if report["exact_duplicates"]["count"]:
        said.append(f"{report['exact_duplicates']['count']} exact duplicate(s) were left out.")
    missing = report["documents"]["examples_without"]
    if 0 < missing < total:
        said.append(f"{missing} of {total} examples name no gold document, the others do.")
    largest = report["clusters"]["largest"]
    if largest["examples"] > _LARGE_CLUSTER * total:
        said.append(
            f"{largest['examples']} of {total} examples belong to one group ({largest['name']}), so the splits cannot "
            "have the sizes asked for."
        )
    if 0 < report["splits"]["test"]["examples"] < _SMALL_TEST:
        said.append(
            f"The test split has {report['splits']['test']['examples']} examples: only large differences will show."
        )
    if report["too_long"]["count"]:
        count, limit = report["too_long"]["count"], report["too_long"]["limit_chars"]
        said.append(f"{count} example(s) are longer than {limit} characters and may be cut.")
    return said
