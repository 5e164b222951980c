"""Where everything in the report's charts goes, in SVG user units; the template only draws."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 520, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 500, 16, 196  # of the plotting area
_BAR = 26


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    title: str


@dataclass(frozen=True)
class PathChart:
    """One parameter's path: the band where it is right, both losses as lines, every complete trial as a dot."""

    name: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    zones: list["Zone"]
    band: str
    valid: str
    train: str
    dots: list[Dot]
    summary: str
    left: int = _LEFT
    right: int = _RIGHT
    top: int = _TOP
    bottom: int = _BOTTOM


@dataclass(frozen=True)
class Zone:
    """A stretch of the axis with one verdict."""

    x: float
    width: float
    verdict: str


@dataclass(frozen=True)
class ImportanceBar:
    name: str
    y: float
    width: float
    value: str


def importance_bars(parameters: Sequence[Mapping[str, Any]]) -> list[ImportanceBar]:
    """One bar a parameter; the shares of all together are 1."""
    return [
        ImportanceBar(
            name=one["name"],
            y=_BAR * place,
            width=round(one["importance"] * (_RIGHT - 160), 2),
            value=f"{100 * one['importance']:.0f} %",
        )
        for place, one in enumerate(parameters)
    ]


def path_chart(
    name: str, path: Sequence[Mapping[str, Any]], trials: Sequence[Mapping[str, Any]], *, log: bool, even: bool
) -> PathChart:
    """The path of one parameter. `even` spaces its values equally, as choices are; `log` by their logarithms."""
    values = [point["value"] for point in path]
    across = _evenly(values) if even else _scaled(values[0], values[-1], log=log)
    learned = [float(point["train_loss"]) for point in path]
    lows = [point["valid_loss"] - point["spread"] for point in path] + learned
    highs = [point["valid_loss"] + point["spread"] for point in path] + learned
    shown = [one for one in trials if min(lows) * 0.8 <= one["value"] <= max(highs) * 1.2]
    measured = [float(one["value"]) for one in shown]
    bottom, top = min(lows + measured), max(highs + measured)
    step = _nice_step(top - bottom)
    first = math.floor(bottom / step)
    last = max(first + 1, math.ceil(top / step))

    def down(loss: float) -> float:
        share: float = (loss - first * step) / ((last - first) * step)
        return round(_BOTTOM - share * (_BOTTOM - _TOP), 2)

    def line(values_of: Callable[[Mapping[str, Any]], float], points: Sequence[Mapping[str, Any]] = path) -> str:
        return " L".join(f"{across(point['value'])} {down(values_of(point))}" for point in points)

    upper = line(lambda point: point["valid_loss"] + point["spread"])
    lower = line(lambda point: point["valid_loss"] - point["spread"], list(reversed(path)))
    return PathChart(
        name=name,
        x_ticks=[Tick(across(value), f"{value:.3g}") for value in values],
        y_ticks=[Tick(down(n * step), f"{n * step:.3g}") for n in range(first, last + 1)],
        zones=_zones([across(value) for value in values], [point["verdict"] for point in path]),
        band=f"M{upper} L{lower} Z",
        valid="M" + line(lambda point: float(point["valid_loss"])),
        train="M" + line(lambda point: float(point["train_loss"])),
        dots=[
            Dot(across(one["params"][name]), down(one["value"]), f"trial {one['number']}: {one['value']:.4f}")
            for one in shown
        ],
        summary=summary(name, path),
    )


def summary(name: str, path: Sequence[Mapping[str, Any]]) -> str:
    """The verdicts of a path in one line, such as `dropout: right from 0 to 0.1, too strong from 0.15 to 0.3`.

    Where nothing can be told from the best, that is said: it is no praise of every value.
    """
    if {point["verdict"] for point in path} == {"right"}:
        return f"{name}: no difference can be told from {path[0]['value']:.3g} to {path[-1]['value']:.3g}"
    parts = []
    for start, end in _runs([point["verdict"] for point in path]):
        low, high = path[start]["value"], path[end]["value"]
        where = f"at {low:.3g}" if start == end else f"from {low:.3g} to {high:.3g}"
        parts.append(f"{path[start]['verdict']} {where}")
    return f"{name}: {', '.join(parts)}"


def _zones(places: Sequence[float], verdicts: Sequence[str]) -> list[Zone]:
    """Each value's verdict reaches half way to its neighbours."""
    found = []
    for start, end in _runs(verdicts):
        left = _LEFT if start == 0 else (places[start - 1] + places[start]) / 2
        right = _RIGHT if end == len(places) - 1 else (places[end] + places[end + 1]) / 2
        found.append(Zone(round(left, 2), round(right - left, 2), verdicts[start]))
    return found


def _runs(verdicts: Sequence[str]) -> list[tuple[int, int]]:
    """First and last place of every stretch of equal verdicts."""
    starts = [place for place, one in enumerate(verdicts) if place == 0 or verdicts[place - 1] != one]
    ends = [start - 1 for start in starts[1:]] + [len(verdicts) - 1]
    return list(zip(starts, ends, strict=True))


def _evenly(values: Sequence[float]) -> Callable[[float], float]:
    gap = (_RIGHT - _LEFT) / len(values)
    return lambda value: round(_LEFT + gap * (values.index(value) + 0.5), 2)


def _scaled(low: float, high: float, *, log: bool) -> Callable[[float], float]:
    def place(value: float) -> float:
        share = math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
        return round(_LEFT + share * (_RIGHT - _LEFT), 2)

    return place


def _nice_step(span: float) -> float:
    """1, 2 or 5 times a power of ten, so that two to five steps make up the span."""
    rough = max(span, 1e-6) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
