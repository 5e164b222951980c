"""Turns a report into the three forms that people and programs read: JSON, Markdown, one HTML file."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from services.evaluation.metrics import METRICS
from services.evaluation.report.charts import WIDTH, bar_chart, forest_plot
from services.evaluation.report.model import Comparison, Estimate, Report
from services.evaluation.report.sentences import metric_title, p_words, points

_TEMPLATES = Path(__file__).parent / "templates"
# what Markdown would read as markup inside a table cell or a sentence
_MARKUP = re.compile(r"([\\`*_{}\[\]<>|#~&!])")


def to_json(report: Report) -> str:
    """The report as indented JSON, ending in a line feed."""
    return report.model_dump_json(indent=2) + "\n"


def to_markdown(report: Report) -> str:
    """The report as GitHub-flavoured Markdown; text from data is escaped."""
    return _templates().get_template("report.md.j2").render(**_context(report))


def to_html(report: Report) -> str:
    """The report as one self-contained page without scripts, light or dark as the reader's system asks."""
    charts = {
        "forest": forest_plot(_family(report, "primary"), report.margin),
        "bars": {name: bar_chart(report.variants, name, report.winner) for name in _decisive(report)},
        "chart_width": WIDTH,
        "manifest_json": _manifest(report),
    }
    return _templates().get_template("report.html.j2").render(**_context(report), **charts)


def _context(report: Report) -> dict[str, Any]:
    return {
        "report": report,
        "primary": _family(report, "primary"),
        "secondary": _family(report, "secondary"),
        "against_others": _family(report, "winner"),
        "decisive": _decisive(report),
        "further": _further(report),
        "by_variant": {found.variant: found for found in _family(report, "primary")},
        "slice_names": _slice_names(report),
        "retrieving": [variant for variant in report.variants if variant.errors],
    }


def _manifest(report: Report) -> str:
    parts = {"experiment_id", "dataset", "corpus", "base_model", "seed", "manifest"}
    return json.dumps(report.model_dump(include=parts), indent=2)


def _family(report: Report, family: str) -> list[Comparison]:
    return [found for found in report.comparisons if found.family == family]


def _decisive(report: Report) -> list[str]:
    return [name for name in (report.metric, report.second_metric) if name]


def _further(report: Report) -> list[str]:
    names = dict.fromkeys(name for variant in report.variants for name in variant.metrics)
    return [name for name in names if name not in _decisive(report)]


def _slice_names(report: Report) -> dict[str, list[str]]:
    """Slice field to its values, over all variants."""
    found: dict[str, dict[str, None]] = {}
    for variant in report.variants:
        for name, values in variant.slices.items():
            found.setdefault(name, {}).update(dict.fromkeys(values))
    return {name: list(values) for name, values in found.items()}


def _number(estimate: Estimate, metric: str) -> str:
    """A mean as people read it: shares in percent, others as they are."""
    return f"{100 * estimate.mean:.1f}" if _is_share(metric) else f"{estimate.mean:.1f}"


def _limits(estimate: Estimate, metric: str) -> str:
    scale = 100 if _is_share(metric) else 1
    return f"{scale * estimate.low:.1f} to {scale * estimate.high:.1f}"


def _is_share(metric: str) -> bool:
    return metric not in METRICS or METRICS[metric].share


def _meaning(metric: str) -> str:
    return METRICS[metric].meaning if metric in METRICS else ""


def _in_markdown(text: object) -> str:
    return _MARKUP.sub(r"\\\1", " ".join(str(text).split()))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        # Markdown escapes its own way, by the `md` filter
        autoescape=select_autoescape(("html.j2", "svg.j2"), disabled_extensions=("md.j2",), default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "points": points,
        "p_words": p_words,
        "title_of": metric_title,
        "meaning": _meaning,
        "number": _number,
        "limits": _limits,
        "duration": _duration,
        "md": _in_markdown,
    }
    return environment
