"""Prints how fast we and the usual trainers fine-tune the same rows, and how well, as Markdown.

Run: make bench-training, or .venv/bin/python -m tests.benchmarks.training_speed [--steps 16] [--rounds 3] [--passages]
[--profile] [--compile]

SmolLM2-135M-Instruct, LoRA of rank 16 on all linear layers, the demo's questions. The trainers take turns (one round
is one seed), each in a process of its own; every one gets the same token ids and labels, the same sequences per
optimiser step and number of steps. Tokens are those of the examples, prompt and completion, padding left out; the
first steps of every run warm up and do not count. Validation loss is of completion tokens, in nats, taken of every
trainer's saved adapter by the same code.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from services.training.lora.adapter import attach, load_weights
from services.training.lora.base_model import load_base
from services.training.lora.objectives import Supervised, score_set
from services.training.order import Stepped, TrainingOrder, parse_event
from services.training.recipe import Recipe
from services.training.settings import child_environment
from shared.settings import Settings
from tests.benchmarks.training_speed import compiled, roofline, step_shares
from tests.benchmarks.training_speed.rows import ROOT, Rows, demo_rows, write_for_peers

MODEL = "smollm2-135m-instruct"
OURS = "uplift"
NAMES = {
    OURS: "Uplift",
    "trl": "TRL SFTTrainer, defaults",
    "trl-tuned": "TRL SFTTrainer, tuned",
    "transformers": "transformers Trainer, defaults",
}
_WARM_UP = 3
_BATCH = 16


@dataclass(frozen=True)
class Run:
    """One trainer's run of one seed."""

    tokens_per_second: float
    computed_share: float
    validation_loss: float


@dataclass(frozen=True)
class Bench:
    """Where everything lies that all runs share."""

    folder: Path
    model_dir: Path
    python: Path
    rows: Rows
    recipe: Recipe

    def run(self, name: str, seed: int) -> Run:
        output = self.folder / f"{name}-{seed}"
        steps = self._ours(seed, output) if name == OURS else self._peer(name, seed, output)
        counted = steps[_WARM_UP:]
        tokens, computed = sum(step["tokens"] for step in counted), sum(step["computed"] for step in counted)
        seconds = sum(step["seconds"] for step in counted)
        return Run(tokens / seconds, computed / tokens, self._validation_loss(output))

    def _ours(self, seed: int, output: Path) -> list[dict[str, Any]]:
        work = self.folder / f"work-{seed}"
        work.mkdir()
        order = TrainingOrder(
            base_model=MODEL,
            model_dir=self.model_dir,
            train_file=self.rows.train_file,
            recipe=self.recipe.model_copy(update={"seed": seed}),
            state_dir=work / "states",
            checkpoint_dir=work / "checkpoints",
            output_dir=output,
            home=work,
            data_sha256="benchmark",
        )
        path = work / "order.json"
        path.write_text(order.model_dump_json())
        said = _output([sys.executable, "-m", "services.training.lora.run", str(path)], child_environment())
        events = [parse_event(line) for line in said.splitlines()]
        return [
            {"seconds": event.seconds, "tokens": event.tokens, "computed": event.computed_tokens}
            for event in events
            if isinstance(event, Stepped)
        ]

    def _peer(self, name: str, seed: int, output: Path) -> list[dict[str, Any]]:
        order = {
            "peer": name,
            "model": str(self.model_dir),
            "rows": str(self.folder / "rows.jsonl"),
            "output": str(output),
            "seed": seed,
            "steps": self.recipe.max_steps,
            "batch_size": self.recipe.batch_size,
            "mean_tokens": self.rows.mean_tokens,
            "learning_rate": self.recipe.learning_rate,
            "weight_decay": self.recipe.weight_decay,
            "rank": self.recipe.rank,
            "alpha": self.recipe.alpha,
            "threads": os.cpu_count(),
        }
        path = self.folder / f"{name}-{seed}.json"
        path.write_text(json.dumps(order))
        script = str(Path(__file__).with_name("peers.py"))
        said = _output([str(self.python), script, str(path)], os.environ | {"HF_HUB_OFFLINE": "1"})
        steps = [json.loads(line) for line in said.splitlines() if line.startswith(b'{"seconds"')]
        return [step | {"computed": step["tokens"]} for step in steps]

    def _validation_loss(self, output: Path) -> float:
        model = load_base(self.model_dir)
        adapter = attach(model.whole, self.recipe)
        adapter.load(load_weights(output))
        objective = Supervised(model)
        return score_set(model, objective, self.rows.validation, self.recipe.micro_batch_tokens).mean_loss


def _output(argv: list[str], environment: Any) -> bytes:
    ran = subprocess.run(argv, cwd=ROOT, env=dict(environment), capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode(errors="replace")[-3000:]
    return ran.stdout


def table(found: dict[str, list[Run]]) -> Iterator[str]:
    """Per trainer: tokens/s of every round, how many times faster we are in the same round, validation loss."""
    yield "| trainer | tokens/s by round | median | Uplift is faster by (same round) | validation loss by seed | mean |"
    yield "|---|---|---|---|---|---|"
    ours = [run.tokens_per_second for run in found[OURS]]
    for name, runs in found.items():
        speeds, losses = [run.tokens_per_second for run in runs], [run.validation_loss for run in runs]
        ratios = [mine / theirs for mine, theirs in zip(ours, speeds, strict=True)]
        faster = f"{statistics.median(ratios):.2f}× ({min(ratios):.2f}–{max(ratios):.2f})" if name != OURS else ""
        yield (
            f"| {NAMES[name]} | {', '.join(f'{speed:.0f}' for speed in speeds)} | {statistics.median(speeds):.0f} | "
            f"{faster} | {', '.join(f'{loss:.3f}' for loss in losses)} | {statistics.fmean(losses):.3f} |"
        )


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--peers", type=Path, help="the Python of the environment that has TRL; without it, only we run"
    )
    options.add_argument("--steps", type=int, default=16, help="optimiser steps a run")
    options.add_argument("--rounds", type=int, default=3, help="interleaved rounds, a seed each")
    options.add_argument("--passages", action="store_true", help="rows with three passages, as RAFT trains them")
    options.add_argument("--profile", action="store_true", help="say too where the time of our own step goes")
    options.add_argument("--compile", action="store_true", help="say too what torch.compile would bring")
    chosen = options.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(os.cpu_count() or 1)
    commit = _output(["git", "rev-parse", "--short", "HEAD"], os.environ).decode().strip()
    with tempfile.TemporaryDirectory(prefix="uplift-bench-") as made:
        folder, model_dir = Path(made), Settings().models_dir / MODEL
        rows = demo_rows(folder, model_dir, with_passages=chosen.passages, max_length=1024)
        write_for_peers(folder / "rows.jsonl", rows.train)
        # without a warm-up everybody's learning rates are the same at every step: theirs starts at zero, ours above it
        recipe = Recipe(max_steps=chosen.steps, epochs=1000, batch_size=_BATCH, warmup_ratio=0.0)
        bench = Bench(folder, model_dir, chosen.peers, rows, recipe)
        kind = "with three passages" if chosen.passages else "plain"
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, commit {commit}. {kind} rows: "
            f"{len(rows.train)} of {rows.mean_tokens:.0f} tokens on average; {chosen.steps} steps of {_BATCH}.\n"
        )
        found: dict[str, list[Run]] = defaultdict(list)
        for seed in range(chosen.rounds):
            for name in NAMES if chosen.peers else [OURS]:
                found[name].append(bench.run(name, seed))
                print(f"<!-- round {seed + 1}, {name}: {found[name][-1]} -->", file=sys.stderr, flush=True)
        print("\n".join(table(found)), end="\n\n")
        share = statistics.fmean(run.computed_share for run in found[OURS])
        speed = statistics.median(run.tokens_per_second for run in found[OURS])
        print("\n".join(roofline.lines(model_dir, recipe, share, speed)))
        threads = os.cpu_count() or 1
        if chosen.profile:
            print(*("\n" + line for line in step_shares.lines(model_dir, rows.train, recipe, threads)))
        if chosen.compile:
            print(*("\n" + line for line in compiled.lines(model_dir, rows.train, recipe, threads)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
