"""A fine-tuning job's diagnosis as a terminal shows it: verdict, evidence, remedy, and the curves."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDTH, _HEIGHT = 64, 10


def show(console: Console, diagnosis: dict[str, Any], steps: Sequence[dict[str, Any]]) -> None:
    """Everything, the curves first."""
    for line in curves(steps):
        console.print(Text(line))
    healthy = diagnosis["verdict"] == "healthy"
    console.print(Text(_words(diagnosis["verdict"]), style="bold green" if healthy else "bold yellow"))
    for finding in diagnosis["findings"]:
        console.print(Text(f"\n{_words(finding['verdict'])}: {finding['summary']}"))
        console.print(evidence_table(finding))
        remedy = finding["remedy"]
        changes = ", ".join(f"{name}={value}" for name, value in remedy["recipe"].items())
        console.print(Text(f"Remedy: {remedy['advice']} ({changes})"))
    if told := diagnosis["forecast"]:
        gain, low, high = (f"{told[name]:.4f}" for name in ("gain", "low", "high"))
        words = f"{told['examples']} training examples would bring the validation loss down by {gain} ({low} to {high})"
        console.print(Text(f"Forecast: {words}."))
    for reason in diagnosis["not_judged"]:
        console.print(Text(f"Not judged: {reason}.", style="dim"))
    for tried in diagnosis["remedies"]:
        console.print(Text(_tried(tried, diagnosis)))


def evidence_table(finding: dict[str, Any]) -> Table:
    """One row a number."""
    table = Table("evidence", "value", "limit", "steps", box=None, header_style="bold", pad_edge=False)
    for one in finding["evidence"]:
        steps = "–".join(map(str, dict.fromkeys(one["steps"]))) if one["steps"] else ""
        table.add_row(one["name"], _number(one["value"]), _number(one["limit"]), steps)
    return table


def curves(steps: Sequence[dict[str, Any]]) -> list[str]:
    """Training loss as dots, validation loss as circles, over the steps; nothing before the second step."""
    if len(steps) < 2:
        return []
    dots = [(step["step"], step["train_loss"], "·") for step in steps]
    circles = [(step["step"], step["valid_loss"], "o") for step in steps if step.get("valid_loss") is not None]
    heights = [loss for _, loss, _ in (*dots, *circles)]
    low, high = min(heights), max(heights)
    first, last = dots[0][0], dots[-1][0]
    rows = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    for step, loss, mark in (*dots, *circles):
        column = round((step - first) / (last - first) * (_WIDTH - 1))
        rows[round((high - loss) / ((high - low) or 1) * (_HEIGHT - 1))][column] = mark
    labels = {0: f"{high:8.3f}", _HEIGHT - 1: f"{low:8.3f}"}
    drawn = [f"{labels.get(place, ''):8} │{''.join(row).rstrip()}" for place, row in enumerate(rows)]
    return [*drawn, f"{'':8} └{'─' * _WIDTH}", f"{'':10}steps {first} to {last}; · training loss, o validation loss"]


def _tried(tried: dict[str, Any], first: dict[str, Any]) -> str:
    """What the remedy brought, the measure of forgetting first where that was to be mended."""
    scores = [_validation(tried, first), _general(tried["general_ability"], first["general_ability"])]
    if tried["verdict"] == "forgetting":
        scores.reverse()
    said = "; ".join(score for score in scores if score)
    line = f"Remedy for {_words(tried['verdict'])} {tried['fine_tuning_job_id']} ({tried['status']})"
    if said:
        line += f": {said}"
    if tried["found_again"] is not None:
        line += f". Its run shows {_words(tried['verdict'])} {'again' if tried['found_again'] else 'no more'}"
    return line + "."


def _validation(tried: dict[str, Any], first: dict[str, Any]) -> str:
    if tried["valid_loss"] is None or first["valid_loss"] is None:
        return ""
    doubt = "" if tried["comparable"] else " on other examples, which does not compare"
    return f"validation loss {first['valid_loss']:.4f}, now {tried['valid_loss']:.4f}{doubt}"


def _general(now: dict[str, Any] | None, first: dict[str, Any] | None) -> str:
    if now is None or first is None:
        return ""
    was, is_now = (f"{one['before']:.4f} to {one['after']:.4f}" for one in (first, now))
    return f"loss on general questions from {was}, now from {is_now}"


def _words(verdict: str) -> str:
    return verdict.replace("_", " ")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
