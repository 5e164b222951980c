"""Prints what a search finds on the demo and whether its best recipe beats the default on questions it never saw.

Run: .venv/bin/python -m tests.benchmarks.search_on_demo [--minutes 25] [--trials 20] [--share 0.5] [--seeds 3]

It starts a platform of its own and does everything through the public API. The search tries recipes over the default
space, each on a `--share` of the training questions (the same ones for all), and chooses by validation loss. Then the
best recipe and the default are trained on all training questions with each of the seeds, none of which the search
used, and the platform's own evaluations ask every model the test questions. The
difference is the best recipe's score less the default's, averaged over seeds for each question, with the 95 % interval
that the platform's reports give: resampled source documents. The search never sees the test split.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy.local.engines import free_port
from services.cli.client import Client
from services.cli.corpus import import_dataset
from services.cli.improve import BASE_MODEL, DEMO
from services.cli.progress import ENDED
from services.evaluation.statistics.paired import PairedDifference, paired_difference
from shared.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 3.0
METRICS = ("exact_match", "token_f1")


@dataclass(frozen=True)
class Run:
    """One model trained with a recipe and a seed, and its scores by example id: metric → score."""

    seed: int
    valid_loss: float
    steps: int
    seconds: float
    scores: dict[str, Mapping[str, float]]


@contextmanager
def a_platform(models: Path) -> Iterator[Settings]:
    """`uplift up` in a home of its own, with the models that are there; `uplift down` at the end."""
    with tempfile.TemporaryDirectory(prefix="uplift-search-") as folder:
        home = Path(folder)
        (home / "models").symlink_to(models)
        environment = os.environ | {"UPLIFT_HOME": str(home), "PYTHONPATH": str(ROOT)}
        environment["UPLIFT_PORT"] = str(free_port())
        command = [sys.executable, "-c", "from services.cli.main import app; app()"]
        subprocess.run([*command, "up"], env=environment, check=True, cwd=ROOT)
        try:
            yield Settings(home=home)
        finally:
            subprocess.run([*command, "down"], env=environment, check=True, cwd=ROOT)


def ended(look: Callable[[], dict[str, Any]], say: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
    """Look again and again until it has ended; RuntimeError if it did not succeed."""
    while (found := look())["status"] not in ENDED:
        if say is not None:
            say(found)
        time.sleep(POLL_SECONDS)
    if found["status"] != "succeeded":
        raise RuntimeError(f"{found['id']} {found['status']}: {found['error']}")
    return found


def searched(client: Client, dataset: str, wanted: argparse.Namespace) -> dict[str, Any]:
    """The search when it has ended; what it tries is written to stderr meanwhile."""
    order = {"model": BASE_MODEL, "dataset": dataset, "trials": wanted.trials, "minutes": wanted.minutes}
    order |= {"parallel": wanted.parallel, "seed": wanted.search_seed, "recipe": {"train_share": wanted.share}}
    search = client.post("searches", order)
    said: list[dict[str, int]] = []

    def say(found: dict[str, Any]) -> None:
        if found["progress"]["trials"] not in said:
            said.append(found["progress"]["trials"])
            sys.stderr.write(f"{found['progress']['seconds']:.0f} s: {said[-1]}\n")

    return ended(lambda: dict(client.get(f"searches/{search['id']}")), say)


def trained_and_asked(client: Client, dataset: str, recipe: Mapping[str, Any], seed: int) -> Run:
    """One fine-tuning job, and every test question asked to what comes of it."""
    order = {"model": BASE_MODEL, "dataset": dataset, "recipe": dict(recipe), "seed": seed}
    created = client.post("fine_tuning/jobs", order)
    began = time.monotonic()
    job = ended(lambda: dict(client.get(f"fine_tuning/jobs/{created['id']}")))
    seconds = time.monotonic() - began
    model = job["fine_tuned_model"]
    asked = client.post("evaluations", {"model": model, "dataset": dataset, "split": "test"})
    ended(lambda: dict(client.get(f"evaluations/{asked['id']}")))
    answers = client.everything(f"evaluations/{asked['id']}/answers")
    metrics = job["result"]["metrics"]
    sys.stderr.write(f"trained with seed {seed} in {seconds:.0f} s: {metrics['valid_loss']:.4f}\n")
    scores = {answer["id"]: answer["scores"] for answer in answers}
    return Run(seed, metrics["valid_loss"], metrics["steps"], seconds, scores)


def difference(
    best: Sequence[Run], default: Sequence[Run], clusters: Mapping[str, str], metric: str, *, seed: int
) -> PairedDifference:
    """Best less default, each question's score averaged over seeds, as the platform's reports compare variants."""
    ids = sorted(clusters)
    means = [np.mean([[run.scores[one][metric] for one in ids] for run in runs], axis=0) for runs in (best, default)]
    return paired_difference(*means, [clusters[one] for one in ids], seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25.0, help="for the search alone")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.5, help="of the training questions, in the search alone")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--search-seed", type=int, default=0)
    wanted = parser.parse_args()
    began, models = time.monotonic(), Settings().models_dir.resolve()
    with a_platform(models) as settings, Client(settings) as client:
        dataset = import_dataset(client, DEMO / "questions.jsonl", name="demo", seed=0, report=lambda *_: None)
        search = searched(client, dataset["id"], wanted)
        _say_search(client, search, dataset["sizes"])
        shared = {"train_share": 1.0}  # both learn from every training question
        recipes = {"default": search["recipe"] | shared, "best": search["best"]["recipe"] | shared}
        rows = client.everything(f"datasets/{dataset['id']}/examples", split="test")
        clusters = {row["id"]: row["cluster"] for row in rows}
        runs: dict[str, list[Run]] = {name: [] for name in recipes}
        for seed in range(wanted.search_seed + 1, wanted.search_seed + 1 + wanted.seeds):
            for name, recipe in recipes.items():
                runs[name].append(trained_and_asked(client, dataset["id"], recipe, seed))
            _say_comparison(runs, clusters, wanted.search_seed)
    sys.stdout.write(f"\nTook {(time.monotonic() - began) / 60:.1f} min; load {os.getloadavg()[1]:.1f}.\n")


def _say_search(client: Client, search: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout
    say = sys.stdout.write
    say(f"`python -m tests.benchmarks.search_on_demo {' '.join(sys.argv[1:])}`, commit {commit.strip()}, ")
    say(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores. Demo: {dict(sizes)}.\n\n")
    say(client.get_text(f"searches/{search['id']}/report.md"))
    sys.stdout.flush()


def _say_comparison(runs: Mapping[str, Sequence[Run]], clusters: Mapping[str, str], seed: int) -> None:
    """After every seed, so that a benchmark that is cut short has told what it has."""
    say = sys.stdout.write
    say("\n| recipe | seed | validation loss | steps | training |" + "".join(f" {one} |" for one in METRICS))
    say("\n|---|---|---|---|---|" + "---|" * len(METRICS) + "\n")
    for name, found in runs.items():
        for run in found:
            scores = (np.mean([one[metric] for one in run.scores.values()]) for metric in METRICS)
            say(f"| {name} | {run.seed} | {run.valid_loss:.4f} | {run.steps} | {run.seconds:.0f} s |")
            say("".join(f" {score:.3f} |" for score in scores) + "\n")
    say(f"\n{len(clusters)} test questions, {len(runs['best'])} seeds:\n\n")
    say("| metric | best − default (95 %) | p |\n|---|---|---|\n")
    for metric in METRICS:
        found = difference(runs["best"], runs["default"], clusters, metric, seed=seed)
        say(f"| {metric} | {found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}] | {found.p_value:.3f} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
