"""What a running search shows: every trial's end in a line; on a terminal also bars of the search and of what runs."""

import time
from typing import Any

from rich.console import Console
from rich.progress import TaskID

from services.cli.client import Client
from services.cli.progress import ENDED, bars, time_left

_MARKS = {"complete": "✓", "pruned": "✂", "stopped": "■", "failed": "✗"}
_POLL_SECONDS = 2.0
"""Trials take minutes, and two requests each half a second would take cores from them."""


class SearchBoard:
    """Use as a context manager; `draw` it again and again."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: set[int] = set()
        self._best: float | None = None
        self._bars: dict[int, TaskID] = {}
        self._progress = bars(console, "note")
        self._search = self._progress.add_task("search", total=None, note="")

    def __enter__(self) -> "SearchBoard":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def pause(self) -> None:
        """Stop drawing, to ask something."""
        self._progress.stop()

    def draw(self, search: dict[str, Any], trials: list[dict[str, Any]]) -> None:
        """Show a search and all its trials as the API tells of them."""
        for trial in sorted(trials, key=lambda one: one["finished_at"] or 0):
            if trial["status"] == "running":
                self._draw_bar(trial)
            elif trial["number"] not in self._told:
                self._told.add(trial["number"])
                self._tell(trial)
        ended = sum(search["progress"]["trials"].values()) - search["progress"]["trials"]["running"]
        self._progress.update(
            self._search,
            description=search["status"],
            completed=ended,
            total=search["trials"],
            note=_search_note(search, ended),
        )

    def _draw_bar(self, trial: dict[str, Any]) -> None:
        number = trial["number"]
        if number not in self._bars:
            self._bars[number] = self._progress.add_task(f"trial {number}", total=None, note="")
        found = trial["progress"] or {}
        loss = "" if trial["value"] is None else f"validation loss {trial['value']:.4f}"
        words = (loss, time_left(found.get("seconds_left")))
        self._progress.update(
            self._bars[number],
            completed=found.get("done") or 0,
            total=found.get("total"),
            note=", ".join(word for word in words if word),
        )

    def _tell(self, trial: dict[str, Any]) -> None:
        if trial["number"] in self._bars:
            self._progress.remove_task(self._bars.pop(trial["number"]))
        said = [f"{_MARKS[trial['status']]} trial {trial['number']} {trial['status']}"]
        if trial["value"] is not None:
            said.append(f"validation loss {trial['value']:.4f}{self._best_so_far(trial)}")
        if trial["status"] == "failed":
            said.append(trial["error"]["message"])
        said.append(", ".join(f"{name} {short(value)}" for name, value in trial["params"].items()))
        seconds = f" ({trial['finished_at'] - trial['created_at']:.0f} s)" if trial["finished_at"] else ""
        self._console.print("; ".join(said) + seconds, highlight=False, markup=False, soft_wrap=True)

    def _best_so_far(self, trial: dict[str, Any]) -> str:
        if trial["status"] != "complete" or (self._best is not None and trial["value"] >= self._best):
            return ""
        self._best = trial["value"]
        return " ★ best so far"


def watch_search(client: Client, board: SearchBoard, search: dict[str, Any]) -> dict[str, Any]:
    """Show the search until it ends; answers its last state."""
    path = f"searches/{search['id']}"
    while True:
        board.draw(search, list(client.everything(f"{path}/trials")))
        if search["status"] in ENDED:
            return search
        time.sleep(_POLL_SECONDS)
        search = client.get(path)


def short(value: Any) -> str:
    """A setting as people read it: three digits of a fraction, all of anything else."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _search_note(search: dict[str, Any], ended: int) -> str:
    said = [f"{ended} of {search['trials']} trials"]
    if search["best"]:
        said.append(f"best {search['best']['value']:.4f}")
    if search["minutes"] is not None and search["status"] not in ENDED:
        said.append(time_left(60 * search["minutes"] - search["progress"]["seconds"]).replace("about", "at most"))
    return ", ".join(word for word in said if word)
