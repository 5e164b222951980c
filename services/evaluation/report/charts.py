"""Where everything in the report's two kinds of chart goes, in SVG user units; the template only draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.evaluation.report.model import Comparison, Variant
from services.evaluation.report.sentences import points

WIDTH = 760
_LEFT, _RIGHT = 160, 560  # of the plotting area; names stand left of it, numbers right
_ROW, _TOP, _BOTTOM = 42, 14, 46
_MARK = 6.5


@dataclass(frozen=True)
class Tick:
    x: float
    label: str


@dataclass(frozen=True)
class ForestRow:
    """One comparison: the interval from x_low to x_high, the mark's outline, and the numbers in words."""

    name: str
    y: float
    x_low: float
    x_high: float
    mark: str
    verdict: str
    numbers: str


@dataclass(frozen=True)
class ForestPlot:
    height: int
    bottom: int
    ticks: list[Tick]
    zero: float
    margin_low: float
    margin_high: float
    rows: list[ForestRow]


@dataclass(frozen=True)
class Bar:
    name: str
    y: float
    x: float
    x_low: float
    x_high: float
    value: str
    winner: bool


@dataclass(frozen=True)
class BarChart:
    height: int
    bottom: int
    ticks: list[Tick]
    left: int
    bars: list[Bar]


def forest_plot(comparisons: Sequence[Comparison], margin: float) -> ForestPlot:
    """Differences in points with their 95 % intervals, zero and the margin of equivalence marked."""
    ends = [0.0, -margin, margin, *(end for found in comparisons for end in (found.low, found.high))]
    step = _nice_step(max(ends) - min(ends))
    first, last = math.floor(min(ends) / step), math.ceil(max(ends) / step)

    def across(value: float) -> float:
        return round(_LEFT + (value - first * step) / ((last - first) * step) * (_RIGHT - _LEFT), 2)

    height = _TOP + _ROW * len(comparisons) + _BOTTOM
    return ForestPlot(
        height=height,
        bottom=height - _BOTTOM,
        ticks=[Tick(across(n * step), points(n * step).removesuffix(".0")) for n in range(first, last + 1)],
        zero=across(0),
        margin_low=across(-margin),
        margin_high=across(margin),
        rows=[_forest_row(found, place, across) for place, found in enumerate(comparisons)],
    )


def bar_chart(variants: Sequence[Variant], metric: str, winner: str | None) -> BarChart:
    """One variant's mean a bar, from 0 to 1, with its 95 % interval; bars without the metric are left out."""
    shown = [variant for variant in variants if metric in variant.metrics]

    def across(value: float) -> float:
        return round(_LEFT + value * (_RIGHT - _LEFT), 2)

    height = _TOP + _ROW * len(shown) + _BOTTOM
    return BarChart(
        height=height,
        bottom=height - _BOTTOM,
        ticks=[Tick(across(n / 4), f"{25 * n}") for n in range(5)],
        left=_LEFT,
        bars=[_bar(variant, metric, place, winner, across) for place, variant in enumerate(shown)],
    )


def _forest_row(found: Comparison, place: int, across: Callable[[float], float]) -> ForestRow:
    y = _middle(place)
    return ForestRow(
        name=found.variant,
        y=y,
        x_low=across(found.low),
        x_high=across(found.high),
        mark=_mark(found.verdict, across(found.difference), y),
        verdict=found.verdict,
        numbers=f"{points(found.difference)}  [{points(found.low)}, {points(found.high)}]",
    )


def _bar(variant: Variant, metric: str, place: int, winner: str | None, across: Callable[[float], float]) -> Bar:
    found = variant.metrics[metric]
    return Bar(
        name=variant.name,
        y=_middle(place),
        x=across(found.mean),
        x_low=across(found.low),
        x_high=across(found.high),
        value=f"{100 * found.mean:.1f}  [{100 * found.low:.1f}, {100 * found.high:.1f}]",
        winner=variant.name == winner,
    )


def _middle(place: int) -> float:
    return _TOP + _ROW * (place + 0.5)


def _mark(verdict: str, x: float, y: float) -> str:
    """A path per verdict, so that the chart reads without colour: up, down, square, diamond."""
    m = _MARK
    corners = {
        "better": [(0, -m), (m, m), (-m, m)],
        "worse": [(0, m), (m, -m), (-m, -m)],
        "equivalent": [(-m, -m), (m, -m), (m, m), (-m, m)],
        "inconclusive": [(0, -m), (m, 0), (0, m), (-m, 0)],
    }[verdict]
    return "M" + " L".join(f"{x + dx:.2f} {y + dy:.2f}" for dx, dy in corners) + " Z"


def _nice_step(span: float) -> float:
    """1, 2 or 5 times a power of ten, so that four to eight steps make up the span."""
    rough = span / 6
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
