"""A search's report as JSON, as Markdown and as one self-contained page."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from services.training.search.report.cautions import warning
from services.training.search.report.charts import HEIGHT, WIDTH, importance_bars, path_chart, summary

_TEMPLATES = Path(__file__).parent / "templates"


def report_object(search: dict[str, Any], trials: list[dict[str, Any]]) -> dict[str, Any]:
    """The search, its trials, importances, and each parameter's path with its verdicts in words."""
    found = search["importance"] or _not_yet(search)
    return {
        "object": "search.report",
        "search": {name: value for name, value in search.items() if name != "importance"},
        "best": search["best"],
        "warning": warning(search["recipe"], search["space"]),
        "base_value": _base_value(search, trials),
        "importance": {name: found[name] for name in ("trials", "explained", "parameters", "message")},
        "paths": found["paths"],
        "regularisation": [summary(name, path) for name, path in found["paths"].items()],
        "trials": [{name: one[name] for name in _SHOWN} for one in trials],
    }


def to_markdown(report: dict[str, Any]) -> str:
    """The report as GitHub-flavoured Markdown."""
    return _templates().get_template("search.md.j2").render(report=report, ranked=sorted(report["trials"], key=_rank))


def to_html(report: dict[str, Any]) -> str:
    """One page without scripts, light or dark as the reader's system asks."""
    complete = [trial for trial in report["trials"] if trial["status"] == "complete"]
    space = report["search"]["space"]
    charts = [
        path_chart(name, path, complete, log=space[name].get("log", False), even="choices" in space[name])
        for name, path in report["paths"].items()
    ]
    ranked = sorted(report["trials"], key=_rank)
    bars = importance_bars(report["importance"]["parameters"])
    template = _templates().get_template("search.html.j2")
    return template.render(report=report, charts=charts, bars=bars, ranked=ranked, width=WIDTH, height=HEIGHT)


def _rank(trial: dict[str, Any]) -> tuple[bool, float, int]:
    """Complete trials first, the lowest loss first; what was never measured comes last."""
    loss = float("inf") if trial["value"] is None else trial["value"]
    return trial["status"] != "complete", loss, trial["number"]


_SHOWN = ("id", "number", "status", "params", "value", "curve", "job", "fine_tuned_model", "error")


def _base_value(search: dict[str, Any], trials: list[dict[str, Any]]) -> float | None:
    """The loss of the base recipe itself, if the space holds it: its trial is the first."""
    if not search["tries_base"] or not trials or trials[0]["status"] != "complete":
        return None
    value: float = trials[0]["value"]
    return value


def _not_yet(search: dict[str, Any]) -> dict[str, Any]:
    complete = search["progress"]["trials"]["complete"]
    message = f"The search is {search['status']}; what matters is told when it has ended."
    return {"trials": complete, "explained": None, "parameters": [], "message": message, "paths": {}}


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        # nothing in the Markdown comes from data: ids, numbers, names of fields
        autoescape=select_autoescape(("html.j2",), disabled_extensions=("md.j2",), default=True),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["loss"] = lambda value: "" if value is None else f"{value:.4f}"
    environment.filters["short"] = lambda value: f"{value:.3g}" if isinstance(value, float) else str(value)
    return environment
