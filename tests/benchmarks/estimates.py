"""Prints how near a run's own estimates come to its true end and its true peak of memory, as Markdown.

Run: make bench-estimates, or .venv/bin/python -m tests.benchmarks.estimates [--only NAME ...] [--traces FOLDER]

SmolLM2-135M-Instruct on the demo's questions, by the demo's two recipes (plain rows; one pass over rows with passages)
and others that shift the time elsewhere: many validations, few examples. The end is when the training process is gone,
its adapter written. Memory is of the training process and all below it, looked at in /proc: the sum of the most that
each held resident (VmHWM), and the largest sum of proportional set sizes that was seen. Nothing stops early here: a run
that may do so is estimated by its planned end.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from services.training.child import run_child
from services.training.order import ChildEvent, TrainingOrder
from services.training.recipe import Recipe
from services.training.settings import child_environment
from shared.settings import Settings
from tests.benchmarks.training_speed.rows import ROOT, demo_rows

MODEL = "smollm2-135m-instruct"
_GIB = 1 << 30
_LOOKS_A_SECOND = 10


@dataclass(frozen=True)
class Case:
    """Rows of the demo, and what the recipe changes."""

    with_passages: bool
    differences: Mapping[str, Any]


CASES = {
    "the demo's training": Case(False, {}),
    "the demo's second pass, with passages": Case(True, {"epochs": 1.0, "max_validation_examples": 48}),
    "four validations a pass": Case(False, {"evals_per_epoch": 4, "epochs": 2.0}),
    "small batches of few examples": Case(False, {"base": "small-data", "train_share": 0.15, "epochs": 4.0}),
}


@dataclass
class Trace:
    """What a run said, `at` so many seconds after it was started, and what it took."""

    events: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    resident_bytes: int = 0
    proportional_bytes: int = 0

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    def errors(self) -> list[float]:
        """Of the seconds left, as told after every step from the first tenth on, as a share of the truth."""
        steps = self.of("step")
        told = [step for step in steps if 10 * step["step"] >= len(steps) and step["step"] < len(steps)]
        return [step["seconds_left"] / (self.seconds - step["at"]) - 1 for step in told]


class Watch:
    """Looks at the memory of this process's children, and theirs, from `__enter__` to `__exit__`."""

    def __init__(self) -> None:
        self._resident: dict[int, int] = {}
        self._proportional = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    @property
    def resident_bytes(self) -> int:
        return sum(self._resident.values())

    @property
    def proportional_bytes(self) -> int:
        return self._proportional

    def _look(self) -> None:
        while not self._done.wait(1 / _LOOKS_A_SECOND):
            proportional = 0
            for child in psutil.Process().children(recursive=True):
                with suppress(OSError, psutil.NoSuchProcess):
                    most = _kib(f"/proc/{child.pid}/status", "VmHWM:")
                    self._resident[child.pid] = max(most, self._resident.get(child.pid, 0))
                    proportional += _kib(f"/proc/{child.pid}/smaps_rollup", "Pss:")
            self._proportional = max(self._proportional, proportional)


def _kib(path: str, name: str) -> int:
    """The kernel's `Name:  123 kB`, in bytes; 0 for a process that has just ended."""
    for line in Path(path).read_text().splitlines():
        words = line.split()
        if words[:1] == [name]:
            return int(words[1]) * 1024
    return 0


def trace(case: Case, folder: Path, model_dir: Path, threads: int | None = None) -> Trace:
    """Train once as a worker does, in a process of its own."""
    recipe = Recipe.from_differences({"patience": None, **case.differences})
    rows = demo_rows(folder, model_dir, with_passages=case.with_passages, max_length=recipe.max_length)
    order = TrainingOrder(
        base_model=MODEL,
        model_dir=model_dir,
        train_file=rows.train_file,
        validation_file=folder / "validation.jsonl",
        recipe=recipe,
        state_dir=folder / "states",
        checkpoint_dir=folder / "checkpoints",
        output_dir=folder / "output",
        home=folder,
        threads=threads,
        data_sha256="benchmark",
    )
    path = folder / "order.json"
    path.write_text(order.model_dump_json())
    made, began = Trace(), time.monotonic()

    def hear(event: ChildEvent) -> None:
        made.events.append({"at": time.monotonic() - began, **event.model_dump(mode="json", exclude_none=True)})

    with Watch() as watch:
        run_child(path, environment=child_environment(), on_event=hear, wish=lambda: None, grace_seconds=5)
        made.seconds = time.monotonic() - began
    made.resident_bytes, made.proportional_bytes = watch.resident_bytes, watch.proportional_bytes
    return made


TIME_HEAD = """\
| run | steps | took | said before | at the first tenth said, true | off by | worst to 90 % |
|---|---:|---:|---:|---:|---:|---:|"""
MEMORY_HEAD = """
| run | longest example | estimated | most resident | off by | most proportional seen |
|---|---:|---:|---:|---:|---:|"""


def time_row(name: str, one: Trace) -> str:
    """What was said of the time left, beside the truth."""
    steps, (estimate,), errors = one.of("step"), one.of("estimated"), one.errors()
    tenth = steps[-(-len(steps) // 10) - 1]
    worst = max(errors[: int(0.8 * len(steps))], key=abs)
    return (
        f"| {name} | {len(steps)} | {one.seconds - estimate['at']:.0f} s | {estimate['seconds']:.0f} s | "
        f"{tenth['seconds_left']:.1f} s, {one.seconds - tenth['at']:.1f} s | {100 * errors[0]:+.1f} % | "
        f"{100 * worst:+.1f} % |"
    )


def memory_row(name: str, one: Trace) -> str:
    """What was said of the peak of memory, beside the most that the processes held."""
    estimate = one.of("estimated")[0]
    return (
        f"| {name} | {estimate['longest']} tokens | {estimate['peak_bytes'] / _GIB:.2f} GiB | "
        f"{one.resident_bytes / _GIB:.2f} GiB | {100 * (estimate['peak_bytes'] / one.resident_bytes - 1):+.1f} % | "
        f"{one.proportional_bytes / _GIB:.2f} GiB |"
    )


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="these runs alone")
    options.add_argument("--threads", type=int, help="how many to compute with; what is free without it")
    options.add_argument("--traces", type=Path, help="a folder for all that the runs said, with the times")
    chosen = options.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    print(f"{platform.machine()}, {os.cpu_count()} cores, commit {commit.stdout.strip()}; {MODEL}.\n", flush=True)
    found = {}
    print(TIME_HEAD, flush=True)
    for name in chosen.only:
        with tempfile.TemporaryDirectory(prefix="uplift-bench-") as folder:
            found[name] = trace(CASES[name], Path(folder), Settings().models_dir / MODEL, chosen.threads)
        if chosen.traces is not None:
            chosen.traces.mkdir(parents=True, exist_ok=True)
            (chosen.traces / f"{name}.json").write_text(json.dumps(vars(found[name])))
        print(time_row(name, found[name]), flush=True)
    print("\n".join([MEMORY_HEAD, *(memory_row(name, one) for name, one in found.items())]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
