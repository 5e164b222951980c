"""`uplift improve`: from your own files to a measured answer, one experiment, in one command."""

import csv
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from services.cli import tables
from services.cli.client import POLL_SECONDS, Client, JobFailed
from services.cli.corpus import import_dataset, index, upload_documents
from services.cli.progress import ENDED, StepBoard
from shared.settings import Settings

DEMO = Path(__file__).resolve().parents[2] / "examples" / "postgresql_parameters"
BASE_MODEL = "smollm2-135m-instruct"


def improve(
    examples: Annotated[
        Path | None,
        typer.Option(
            help="JSONL or CSV with question, answer, optionally document (file name of the gold document) and other "
            "columns kept as metadata; or JSONL of chat messages.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    documents: Annotated[Path | None, typer.Option(help="A folder of text or Markdown files.", exists=True)] = None,
    base_model: Annotated[str, typer.Option(help="A model id of `uplift models list`.")] = BASE_MODEL,
    name: Annotated[str | None, typer.Option(help="What to call it; the examples' file name if not given.")] = None,
    seed: Annotated[int, typer.Option(help="Decides splits, sampling and training order.")] = 0,
    demo: Annotated[bool, typer.Option("--demo", help="Use the demo: PostgreSQL's configuration parameters.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small run that shows the whole path, not its best.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json instead of a table.")] = False,
) -> None:
    """Fine-tune, retrieve, prompt; measure every technique on one frozen test set; serve the winner.

    The report is saved under $UPLIFT_HOME/reports/<experiment>/ and reports/latest points to it.
    """
    if demo:
        examples, documents, name = DEMO / "questions.jsonl", DEMO / "documents", name or "postgresql-parameters"
    if examples is None or documents is None:
        raise typer.BadParameter("give --examples FILE and --documents PATH, or --demo")
    settings = Settings()
    console = tables.wide_console(stderr=as_json)
    with Client(settings) as client:
        experiment = _run(client, console, examples, documents, base_model, name or examples.stem, seed, quick)
        report = client.get(f"experiments/{experiment['id']}/report")
        folder = save_report(client, settings.home, experiment["id"])
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    tables.show(console, report)
    _say_what_next(console, client.base_url, report, folder, _a_question(examples))


def save_report(client: Client, home: Path, experiment_id: str) -> Path:
    """Write report.json, .md and .html; `reports/latest` points to the folder. Answers the folder."""
    folder = home / "reports" / experiment_id
    folder.mkdir(parents=True, exist_ok=True)
    report = client.get(f"experiments/{experiment_id}/report")
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    for kind in ("md", "html"):
        (folder / f"report.{kind}").write_text(client.get_text(f"experiments/{experiment_id}/report.{kind}"))
    link, fresh = home / "reports" / "latest", home / "reports" / f".latest-{os.getpid()}"
    fresh.symlink_to(experiment_id)
    fresh.replace(link)
    return folder


def _run(
    client: Client,
    console: Console,
    examples: Path,
    documents: Path,
    base_model: str,
    name: str,
    seed: int,
    quick: bool,
) -> dict[str, Any]:
    with StepBoard(console) as board:
        with board.step("upload documents") as report:
            file_ids = upload_documents(client, documents, report)
        with board.step("index documents") as report:
            corpus = index(client, name, file_ids, report)
        with board.step("import examples") as report:
            dataset = import_dataset(client, examples, name=name, seed=seed, report=report)
        order = {
            "name": name,
            "dataset": dataset["id"],
            "vector_store": corpus.id,
            "base_model": base_model,
            "seed": seed,
            "quick": quick,
        }
        experiment = client.post("experiments", order)
        try:
            return _follow(client, board, experiment)
        except KeyboardInterrupt:
            client.post(f"experiments/{experiment['id']}/cancel")
            console.print(f"\nExperiment {experiment['id']} is cancelled. What was measured so far is kept.")
            raise typer.Exit(130) from None


def _follow(client: Client, board: StepBoard, experiment: dict[str, Any]) -> dict[str, Any]:
    """Show every step until the experiment ends."""
    while experiment["status"] not in ENDED:
        board.draw(experiment["steps"])
        time.sleep(POLL_SECONDS)
        experiment = client.get(f"experiments/{experiment['id']}")
    board.draw(experiment["steps"])
    if experiment["status"] != "succeeded":
        error = experiment.get("error") or {}
        raise JobFailed(f"Experiment {experiment['id']} {experiment['status']}: {error.get('message', '')}")
    return experiment


def _say_what_next(console: Console, base_url: str, report: dict[str, Any], folder: Path, question: str) -> None:
    say: Callable[..., None] = console.print
    say(f"Report: {folder / 'report.html'}")
    release = report.get("release")
    if not release:
        say("No variant was better than the baseline on the test set, so nothing was released.")
        return
    say(f"The winner answers as model [bold]{release['model']}[/]. Talk to it:\n")
    say(tables.snippets(base_url, release["model"], question), markup=False, highlight=False, soft_wrap=True)
    say(f'\nor: uplift ask {release["model"]} "{question}"', markup=False, highlight=False)


def _a_question(examples: Path) -> str:
    """The first question of the examples, to fill the snippets with something that works."""
    with examples.open(encoding="utf-8-sig", newline="") as lines:
        row: dict[str, Any] = next(csv.DictReader(lines)) if examples.suffix == ".csv" else json.loads(lines.readline())
    asked = [message["content"] for message in row.get("messages", []) if message["role"] == "user"]
    return str(row.get("question") or asked[-1]).replace('"', "'")
