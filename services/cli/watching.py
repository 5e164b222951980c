"""What a running job shows: on a terminal a bar with the newest figures, anywhere else plain lines."""

import time
from typing import Any

from rich.console import Console

from services.cli.client import Client, JobFailed
from services.cli.progress import ENDED, bars, time_left

_LINE_SECONDS = 5.0
"""Between two lines about steps where there is no terminal; a validation is always told."""
_SMOOTHING = 0.3
"""How much the newest step counts in the shown speed (an exponential average: steps differ in length)."""


class TrainingBoard:
    """Hears a job's events and draws them; use it as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rate: float | None = None
        self._left: float | None = None
        self._figures = ""
        self._told_at = -_LINE_SECONDS
        self._progress = bars(console, "figures")
        self._bar = self._progress.add_task("queued", total=None, figures="")

    def __enter__(self) -> "TrainingBoard":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def pause(self) -> None:
        """Stop drawing, to ask something."""
        self._progress.stop()

    def hear(self, event: dict[str, Any]) -> None:
        """One event of the job."""
        if event["type"] != "metrics":
            self._say(event["message"], warn=event["level"] != "info")
            return
        step = event["data"]
        self._rate = _smoothed(self._rate, step.get("tokens_per_second"))
        self._figures = figures(step, self._rate)
        self._draw(step["step"], step["total_steps"])
        validated = step.get("valid_loss") is not None
        if not self._console.is_terminal and (validated or time.monotonic() - self._told_at >= _LINE_SECONDS):
            self._told_at = time.monotonic()
            left = time_left(self._left)
            said = [f"step {step['step']}/{step['total_steps']}", self._figures, *([left] if left else [])]
            self._console.print(", ".join(said), highlight=False, markup=False)

    def hear_state(self, state: dict[str, Any]) -> None:
        """The job's status and progress."""
        found = state.get("progress") or {}
        self._left = found.get("seconds_left") if state["status"] == "running" else None
        self._progress.update(self._bar, description=state["status"])
        if found.get("total"):
            self._draw(found["done"], found["total"])
        if state["status"] in ENDED:
            self._progress.stop_task(self._bar)

    def _draw(self, done: float, total: float) -> None:
        left = time_left(self._left)
        shown = ", ".join(word for word in (self._figures, left) if word)
        # a late progress message must not pull the bar back behind the newest step
        done = max(done, self._progress.tasks[self._bar].completed)
        self._progress.update(self._bar, completed=done, total=total, figures=shown)

    def _say(self, message: str, *, warn: bool) -> None:
        style = "yellow" if warn else None
        self._console.print(message, style=style, highlight=False, markup=False, soft_wrap=True)


def _smoothed(rate: float | None, speed: float | None) -> float | None:
    """The shown speed with the newest step's, which older jobs do not tell."""
    if rate is None or speed is None:
        return rate if speed is None else speed
    return rate + _SMOOTHING * (speed - rate)


def figures(step: dict[str, Any], tokens_per_second: float | None) -> str:
    """One step's figures as a line: losses in nats per completion token, speed in tokens per second."""
    said = [f"loss {step['train_loss']:.3f}"]
    if step.get("valid_loss") is not None:
        said.append(f"validation loss {step['valid_loss']:.3f}")
    if tokens_per_second is not None:
        said.append(f"{tokens_per_second:.0f} tokens/s")
    return ", ".join(said)


def watch(client: Client, path: str, board: TrainingBoard) -> dict[str, Any]:
    """Show the job at `path` (jobs/… or fine_tuning/jobs/…) until it ends; answers its last state."""
    for name, data in client.follow(f"{path}/events"):
        if name == "message":
            board.hear(data)
        else:
            board.hear_state(data)
        if name == "end":
            return data
    raise AssertionError("a followed stream stops at its end")


def raise_unless_succeeded(job_id: str, end: dict[str, Any]) -> None:
    if end["status"] != "succeeded":
        error = end.get("error") or {}
        raise JobFailed(f"Job {job_id} {end['status']}: {error.get('message', 'it was cancelled')}")
