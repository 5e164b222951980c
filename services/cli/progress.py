"""What a long command shows while it works: bars on a terminal, one line a step's end anywhere else."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from services.cli.corpus import Report

ENDED = {"succeeded", "failed", "cancelled"}


def bars(console: Console, note: str) -> Progress:
    """Bars that show the task's field `note` at their end; they draw on a terminal only."""
    return Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn(f"[dim]{{task.fields[{note}]}}"),
        console=console,
        disable=not console.is_terminal,
    )


class StepBoard:
    """Use as a context manager. A log file or a pipe gets plain lines, for bars need a terminal to be redrawn on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: dict[str, TaskID] = {}
        self._told: set[str] = set()
        self._progress = bars(console, "left")

    def __enter__(self) -> "StepBoard":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @contextmanager
    def step(self, title: str) -> Iterator[Report]:
        """A step of the command's own; what it yields hears how far it is."""
        task = self._progress.add_task(title, total=None, left="")
        began = time.monotonic()

        def report(done: float, total: float, seconds_left: float | None) -> None:
            if seconds_left is None and done:
                seconds_left = (time.monotonic() - began) * (total - done) / done
            self._progress.update(task, completed=done, total=total, left=time_left(seconds_left))

        yield report
        total = self._progress.tasks[task].total or 1
        self._progress.update(task, completed=total, total=total, left="")
        self._tell(title, "succeeded", time.monotonic() - began)

    def draw(self, steps: list[dict[str, Any]]) -> None:
        """Show an experiment's steps as the API tells of them; call it again and again."""
        for step in steps:
            if step["status"] in ENDED and step["started_at"] and step["finished_at"]:
                self._tell(step["name"], step["status"], step["finished_at"] - step["started_at"])
            # a step that was over before anybody looked needs no bar
            if step["status"] not in {"waiting", "succeeded"} or step["name"] in self._bars:
                self._draw_bar(step)

    def _draw_bar(self, step: dict[str, Any]) -> None:
        if step["name"] not in self._bars:
            self._bars[step["name"]] = self._progress.add_task(step["name"], total=None, left="")
        found = step.get("progress") or {}
        done, total = found.get("done"), found.get("total")
        if step["status"] == "succeeded":
            done = total = total or 1
        left = found.get("seconds_left") if step["status"] == "running" else None
        self._progress.update(self._bars[step["name"]], completed=done or 0, total=total, left=time_left(left))
        if step["status"] in ENDED:
            self._progress.stop_task(self._bars[step["name"]])

    def _tell(self, title: str, status: str, seconds: float) -> None:
        if self._console.is_terminal or title in self._told:
            return
        self._told.add(title)
        mark = "✓" if status == "succeeded" else f"✗ {status}:"
        self._console.print(f"{mark} {title} ({seconds:.0f} s)", highlight=False)


def time_left(seconds: float | None) -> str:
    """The estimate in words; empty when there is none or it is nearly over."""
    if not seconds or seconds < 1:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"about {minutes} min {rest:02} s left" if minutes else f"about {rest} s left"
