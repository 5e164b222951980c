"""Prints whether a training run that is killed again and again is the run that was not, as Markdown.

Run: .venv/bin/python -m tests.benchmarks.resume_study [--kills 20] [--seed 0] [--model FOLDER]

One run is trained unbroken. The same run is killed (kill -9) at random moments: while it loads, between and within
steps, inside the write of a state or a checkpoint (a kill that comes late for that is repeated), and once it is stopped
by SIGTERM and once its newest state is damaged afterwards. Every other time it goes on as on another worker: in a new
folder that holds the newest whole state and nothing else. Every loss that any of the processes said is compared with
the unbroken run's. At the end the same run is resumed with one thread and with older instructions, to see what then
holds. Without --model it is a random model of two layers; with it, a real one, whose steps take seconds.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.training.lora import whole_folders
from services.training.order import HANDED_OVER, TrainingOrder
from services.training.recipe import Recipe
from services.training.settings import child_environment
from tests.factories.tiny_model import make_tiny_model

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = "output/adapter_model.safetensors"
KINDS = (
    "loading",
    "stepping",
    "writing",
    "stepping",
    "damaged",
    "writing",
    "stepping",
    "stopped",
    "writing",
    "stepping",
)
"""The kinds of interruption, over and over."""
_OLD_INSTRUCTIONS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


@dataclass
class Broken:
    """One interruption and what came of it."""

    kind: str
    at_step: int
    moved: bool
    resumed_from: int = 0


@dataclass
class Study:
    """A model, data and a recipe, trained in folders under `work`."""

    model: Path
    recipe: Recipe
    rows: list[tuple[str, str]]
    work: Path
    seed: int = 0
    interruptions: list[Broken] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._folders = 0

    def unbroken(self) -> "Run":
        run = self.run()
        run.finish()
        return run

    def broken(self, kinds: Sequence[str]) -> "Run":
        """A run interrupted in each of these ways in turn, then finished; `said` has what all its processes said."""
        run = self.run()
        for number, kind in enumerate(kinds):
            while not self._interrupt(run, kind, self._steps_until(run, len(kinds) - number)):
                pass
            self.interruptions.append(Broken(kind, run.last_step, moved=number % 2 == 1))
            if number % 2 == 1:
                run = run.elsewhere(self._folder())
            self.interruptions[-1].resumed_from = run.newest_state()
        run.finish()
        return run

    def run(self) -> "Run":
        return Run(self, self._folder())

    def _steps_until(self, run: "Run", kills_left: int) -> int:
        """How many steps to let it make first: at random, so that the kills are spread over the run, and it is not over
        before the last of them."""
        assert self.recipe.max_steps is not None
        left = self.recipe.max_steps - run.last_step
        return self._random.randint(1, max(1, int(1.5 * left / (kills_left + 1))))

    def _interrupt(self, run: "Run", kind: str, steps: int) -> bool:
        """Start the run and break it off; False when a write was over before the kill came, so that it counts not."""
        left, first = set(run.torn()), run.started_steps  # an earlier torn folder stays until the next whole one
        child = run.start()
        if kind == "loading":
            time.sleep(self._random.uniform(0.2, 2.0))
        else:
            run.wait(child, lambda: run.started_steps >= first + steps)
            if kind == "writing":
                run.wait(child, lambda: bool(set(run.torn()) - left))
                time.sleep(self._random.uniform(0, 0.002))
            else:
                time.sleep(self._random.uniform(0, 2) * run.step_seconds)
        if kind == "stopped":
            child.send_signal(signal.SIGTERM)
            assert child.wait(120) == HANDED_OVER, "it was done before it could be stopped: give it more steps"
            return True
        assert child.poll() is None, f"it ended before it could be killed ({kind}): give it more steps"
        child.kill()
        child.wait()
        if kind == "damaged":
            return run.damage_newest_state()
        return kind != "writing" or bool(set(run.torn()) - left)

    def _folder(self) -> Path:
        self._folders += 1
        folder = self.work / f"worker-{self._folders}"
        folder.mkdir(parents=True)
        return folder


class Run:
    """The run in one working folder, as one worker has it."""

    def __init__(self, study: Study, folder: Path, said: "list[Path] | None" = None) -> None:
        self.study, self.folder = study, folder
        self._said = [] if said is None else said
        self.order = TrainingOrder(
            base_model=study.model.name,
            model_dir=study.model,
            train_file=self._rows("train.jsonl", study.rows),
            validation_file=self._rows("validation.jsonl", study.rows[:4]),
            recipe=study.recipe,
            state_dir=folder / "states",
            checkpoint_dir=folder / "checkpoints",
            output_dir=folder / "output",
            home=study.work / "home",
            threads=os.cpu_count(),
            data_sha256="data",
        )

    def start(
        self, environment: Mapping[str, str] | None = None, cores: set[int] | None = None
    ) -> subprocess.Popen[bytes]:
        # as a worker does: what it has heard is not said again, so whatever this process says it has computed
        order = self.order.model_copy(update={"recorded_step": self.last_step})
        (self.folder / "order.json").write_text(order.model_dump_json())
        self._said.append(self.folder / f"said-{len(self._said)}.jsonl")
        with self._said[-1].open("wb") as said, (self.folder / "child.log").open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "services.training.lora.run", str(self.folder / "order.json"), str(os.getpid())],
                cwd=ROOT,
                env=child_environment() | dict(environment or {}),
                stdout=said,
                stderr=log,
            )
        if cores is not None:
            os.sched_setaffinity(child.pid, cores)  # long before the child looks how many it has
        return child

    def finish(self, environment: Mapping[str, str] | None = None, cores: set[int] | None = None) -> None:
        child = self.start(environment, cores)
        assert child.wait(3600) == 0, (self.folder / "child.log").read_text()[-2000:]

    def wait(self, child: subprocess.Popen[bytes], until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 600
        while not until():
            assert child.poll() is None, (self.folder / "child.log").read_text()[-2000:] or "it ended too soon"
            assert time.monotonic() < deadline, "nothing happened for ten minutes"
            time.sleep(0.0002)

    def elsewhere(self, folder: Path) -> "Run":
        """The run as another worker finds it: its newest whole state from storage."""
        moved = Run(self.study, folder, self._said)
        newest = self.newest_state()
        if newest:
            name = f"step-{newest:08}"
            shutil.copytree(self.order.state_dir / name, moved.order.state_dir / name)
        return moved

    def events(self) -> list[dict[str, Any]]:
        """What all processes of this run said, in order, complete lines only."""
        lines = (line for path in self._said for line in path.read_bytes().split(b"\n")[:-1])
        return [json.loads(line) for line in lines]

    def losses(self) -> list[tuple[int, float, float | None]]:
        """(step, training loss, validation loss), as often as it was said."""
        steps = (event for event in self.events() if event["event"] == "step")
        return [(event["step"], event["train_loss"], event["valid_loss"]) for event in steps]

    @property
    def started_steps(self) -> int:
        return sum(path.read_bytes().count(b'"event":"step"') for path in self._said)

    @property
    def last_step(self) -> int:
        return max((step for step, _, _ in self.losses()), default=0)

    @property
    def step_seconds(self) -> float:
        taken = sorted(event["seconds"] for event in self.events() if event["event"] == "step")
        return float(taken[len(taken) // 2])

    def newest_state(self) -> int:
        whole = [f for f in whole_folders.newest_first(self.order.state_dir) if whole_folders.verifies(f)]
        return whole_folders.step_of(whole[0]) if whole else 0

    def torn(self) -> list[Path]:
        """Folders whose writing has begun and not ended."""
        return [p for root in (self.order.state_dir, self.order.checkpoint_dir) for p in root.glob(".partial-*")]

    def damage_newest_state(self) -> bool:
        """Change one byte of the newest state; False where there is none before it to go back to."""
        folders = whole_folders.newest_first(self.order.state_dir)
        if len(folders) < 2:
            return False
        path = folders[0] / "weights.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        return True

    def weights(self) -> bytes:
        return (self.folder / WEIGHTS).read_bytes()

    def _rows(self, name: str, rows: list[tuple[str, str]]) -> Path:
        system = {"role": "system", "content": "You are a helpful assistant."}
        path = self.folder / name
        lines = [{"messages": [system, {"role": "user", "content": q}], "answer": a} for q, a in rows]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path


def largest_difference(run: Run, unbroken: Run) -> float:
    """The largest |loss - the unbroken run's loss of that step|, over training and validation losses."""
    truth = {step: (train, valid) for step, train, valid in unbroken.losses()}
    found = [0.0]
    for step, train, valid in run.losses():
        found.append(abs(train - truth[step][0]))
        if valid is not None:
            found.append(abs(valid - (truth[step][1] or 0.0)))
    return max(found)


def questions(count: int) -> list[tuple[str, str]]:
    """Sums; of uneven length, so that packs differ."""
    return [(f"What is {n}+{3 * n}?" + " Please." * (n % 3), f"It is {4 * n}.") for n in range(count)]


def tiny_study(work: Path, *, kills: int, seed: int = 0) -> Study:
    recipe = Recipe(
        max_steps=40 + 14 * kills,
        epochs=1_000,
        batch_size=2,
        rank=2,
        dropout=0.1,
        save_steps=3,
        learning_rate=0.002,
        patience=None,
    )
    return Study(make_tiny_model(work / "tiny"), recipe, questions(16), work, seed)


def real_study(model: Path, work: Path, *, kills: int, seed: int = 0) -> Study:
    recipe = Recipe(
        max_steps=10 + 9 * kills,
        epochs=1_000,
        batch_size=4,
        dropout=0.05,
        save_steps=3,
        learning_rate=5e-4,
        patience=None,
    )
    return Study(model, recipe, questions(24), work, seed)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="a base model's folder; a random tiny one without it")
    wanted = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make = tiny_study if wanted.model is None else lambda *a, **k: real_study(wanted.model, *a, **k)
        study = make(work, kills=wanted.kills, seed=wanted.seed)
        return report(study, [KINDS[n % len(KINDS)] for n in range(wanted.kills)])


def report(study: Study, kinds: Sequence[str]) -> int:
    """Print the study; exit status 1 when a loss differs by more than 1e-6."""
    began = time.monotonic()
    unbroken, broken = study.unbroken(), study.broken(kinds)
    started = next(event for event in broken.events() if event["event"] == "started")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    print(
        f"`python -m tests.benchmarks.resume_study`, {platform.machine()}, {os.cpu_count()} cores, "
        f"commit {commit.stdout.strip()}; {study.model.name}, {started['precision']}, "
        f"{started['total_steps']} steps, a state every {study.recipe.save_steps}\n"
    )
    print("| interruption | last step said | went on from | on another worker |\n|---|---:|---:|---|")
    for one in study.interruptions:
        print(f"| {one.kind} | {one.at_step} | {one.resumed_from} | {'yes' if one.moved else ''} |")
    worst, said = largest_difference(broken, unbroken), len(broken.losses())
    same = broken.weights() == unbroken.weights()
    adapters = "equal byte by byte" if same else "NOT equal"
    print(
        f"\nLargest difference of a loss over {said} steps said: {worst:.1e} (promised: 1e-6). "
        f"Adapters are {adapters}. Took {time.monotonic() - began:.0f} s."
    )
    print("\n| resumed half-way under other conditions | largest difference of a loss | of the last ten steps |")
    print("|---|---:|---:|")
    for name, environment, cores in (("one thread", {}, {0}), ("AVX2 instructions only", _OLD_INSTRUCTIONS, None)):
        other = resumed_otherwise(study, environment, cores)
        last = [abs(a[1] - b[1]) for a, b in zip(other.losses()[-10:], unbroken.losses()[-10:], strict=True)]
        told = next(e["resumed_with"] for e in reversed(other.events()) if e["event"] == "started")
        print(f"| {name} ({', '.join(told)}) | {largest_difference(other, unbroken):.1e} | {max(last):.1e} |")
    return 0 if worst <= 1e-6 and same else 1


def resumed_otherwise(study: Study, environment: Mapping[str, str], cores: set[int] | None) -> Run:
    """A run stopped by SIGTERM about half-way and finished with other threads or instructions."""
    run = study.run()
    child = run.start()
    half = (study.recipe.max_steps or 0) // 2
    with contextlib.suppress(ProcessLookupError):
        run.wait(child, lambda: run.started_steps >= half)
        child.send_signal(signal.SIGTERM)
    assert child.wait(120) == HANDED_OVER
    run.finish(environment, cores)
    return run


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
