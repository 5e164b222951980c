"""A run's loss curves: an SVG beside the model card, and the validation losses in words for whoever reads text."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, HEIGHT = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 704, 28, 276  # of the plotting area, in SVG user units
_MOST_POINTS = 300
_MOST_WORDS = 12
_TICKS = 5
Point = tuple[float, float]


@dataclass(frozen=True)
class Curves:
    """Losses in mean nats per completion token (of `dpo` per pair), as (step, loss)."""

    train: list[Point]
    valid: list[Point]

    @classmethod
    def of(cls, steps: Sequence[dict[str, Any]]) -> "Curves":
        """From the data of a job's metrics events."""
        return cls(
            [(step["step"], step["train_loss"]) for step in steps],
            [(step["step"], step["valid_loss"]) for step in steps if step.get("valid_loss") is not None],
        )


def curves_svg(curves: Curves, title: str, kept_step: int | None) -> str:
    """Both curves over the steps, and the step whose weights were kept; needs at least one training step."""
    points = [*curves.train, *curves.valid]
    last = max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    high = high if high > low else low + 1

    def place(point: Point) -> Point:
        x = _LEFT + (_RIGHT - _LEFT) * point[0] / last
        return round(x, 1), round(_BOTTOM - (_BOTTOM - _TOP) * (point[1] - low) / (high - low), 1)

    drawn = [
        _line([place(one) for one in _thinned(curves.train)], "#a05a00", 1.2),
        _line([place(one) for one in curves.valid], "#0b63c5", 2.2),
        *(f'<circle cx="{x}" cy="{y}" r="3" fill="#0b63c5"/>' for x, y in map(place, curves.valid)),
    ]
    if kept_step is not None:
        x, _ = place((kept_step, low))
        drawn.append(f'<line x1="{x}" x2="{x}" y1="{_TOP}" y2="{_BOTTOM}" stroke="#1d8a4c" stroke-dasharray="5 4"/>')
        drawn.append(_text(x, _TOP - 8, f"kept: step {kept_step}", "#1d8a4c"))
    values = [low + (high - low) * number / (_TICKS - 1) for number in range(_TICKS)]
    grid = [
        f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{place((0, value))[1]}" y2="{place((0, value))[1]}" stroke="#d8dde4"/>'
        + _text(_LEFT - 8, place((0, value))[1] + 4, f"{value:.2f}", "#5b6675", "end")
        for value in values
    ]
    steps = sorted({round(last * number / (_TICKS - 1)) for number in range(_TICKS)})
    below = [_text(place((step, low))[0], _BOTTOM + 18, str(step), "#5b6675") for step in steps]
    legend = _text(_LEFT, HEIGHT - 8, "step; loss in nats: ", "#5b6675", "start") + "".join(
        _text(x, HEIGHT - 8, word, colour, "start")
        for x, word, colour in ((190, "training", "#a05a00"), (260, "validation", "#0b63c5"))
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            'font-family="system-ui, sans-serif" font-size="12">',
            f"<title>Loss curves of {escape(title)}</title>",
            f"<desc>{escape(in_words(curves))}</desc>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
            *(*grid, *below, *drawn, legend, "</svg>", ""),
        ]
    )


def in_words(curves: Curves) -> str:
    """The first and last training loss, and validation losses by step: all of them where they are few."""
    first, last = curves.train[0], curves.train[-1]
    said = f"Training loss {first[1]:.3f} at step {first[0]}, {last[1]:.3f} at step {last[0]}."
    if curves.valid:
        stride = -(-len(curves.valid) // _MOST_WORDS)
        shown = [*curves.valid[:-1:stride], curves.valid[-1]]
        said += " Validation loss " + ", ".join(f"{loss:.3f} at step {step}" for step, loss in shown) + "."
    return said


def _thinned(points: list[Point]) -> list[Point]:
    """Means of neighbouring steps where there are more than can be told apart."""
    size = -(-len(points) // _MOST_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _line(points: list[Point], colour: str, width: float) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, words: str, colour: str, anchor: str = "middle") -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" text-anchor="{anchor}">{escape(words)}</text>'
