"""`uplift search`: look for the recipe with the lowest validation loss, watched while it runs."""

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from services.cli.client import Client, JobFailed
from services.cli.improve import BASE_MODEL
from services.cli.search_board import SearchBoard, short, watch_search
from services.cli.tables import wide_console
from services.cli.train import example_source, parsed_settings
from shared.settings import Settings

_BAR = 30


def search(
    data: Annotated[
        str, typer.Option(help="What to learn, as for `uplift train`: a file here, or the id of a dataset or file.")
    ],
    model: Annotated[str, typer.Option(help="A base model, or a fine-tuned model to go on from.")] = BASE_MODEL,
    trials: Annotated[int, typer.Option(min=1, help="At most so many recipes are tried.")] = 20,
    minutes: Annotated[float | None, typer.Option(help="At most so long; what then runs is stopped.")] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Trials at once, where so many training workers are.")] = 1,
    recipe: Annotated[str, typer.Option(help="What all trials share and what is tried first: a named recipe.")] = (
        "default"
    ),
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A difference to that recipe, field=value (JSON or a word); repeatable."),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            help='What varies, as JSON: {"rank": {"choices": [8, 16]}, "learning_rate": {"low": 1e-4, "high": 1e-2, '
            '"log": true}}. If not given: learning rate, rank, batch size, dropout, weight decay, epochs and NEFTune.'
        ),
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help="A file like --data to choose by; a dataset has its own split.")
    ] = None,
    pruning: Annotated[bool, typer.Option(help="Stop trials that fall behind (successive halving).")] = True,
    suffix: Annotated[str | None, typer.Option(help="Part of the trials' models' ids.")] = None,
    seed: Annotated[int, typer.Option(help="Decides what is tried, and every trial's run.")] = 0,
    detach: Annotated[bool, typer.Option("--detach", help="Return once the search has begun.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of tables.")] = False,
) -> None:
    """Try recipes and keep the one with the lowest validation loss; the test split is not looked at.

    Ctrl-C stops watching. On a terminal it asks whether to cancel the search too; anywhere else the search goes on.
    """
    console = wide_console(stderr=as_json)
    differences, varied = parsed_settings(set_ or []), _json(space, "--space")
    with Client(Settings()) as client:
        order = {
            "model": model,
            "trials": trials,
            "minutes": minutes,
            "parallel": parallel,
            "pruning": pruning,
            "recipe": {"base": recipe, **differences} if differences else recipe,
            "space": varied,
            "suffix": suffix,
            "seed": seed,
            **example_source(client, console, data, validation),
        }
        found = client.post("searches", {name: value for name, value in order.items() if value is not None})
        console.print(f"Search {found['id']} has begun.", highlight=False, soft_wrap=True)
        if detach:
            console.print(f"Watch it: uplift searches follow {found['id']}", highlight=False, soft_wrap=True)
        else:
            watch_and_show(client, console, found, as_json=as_json)


def watch_and_show(client: Client, console: Console, found: dict[str, Any], *, as_json: bool) -> None:
    """Watch a search to its end, save its report and show it; JobFailed if no trial came to its end."""
    with SearchBoard(console) as board:
        try:
            found = watch_search(client, board, found)
        except KeyboardInterrupt:
            board.pause()
            _interrupted(client, console, found["id"])
            raise typer.Exit(130) from None
    report = client.get(f"searches/{found['id']}/report")
    folder = save_report(client, Settings().home, found["id"], report)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        show(console, report)
        console.print(f"\nReport: {folder / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
    if found["status"] != "succeeded":
        error = found.get("error") or {}
        raise JobFailed(f"Search {found['id']} {found['status']}: {error.get('message', 'it was cancelled')}")


def save_report(client: Client, home: Path, search_id: str, report: dict[str, Any]) -> Path:
    """Write report.json, .md and .html under the home's reports; answers the folder."""
    folder = home / "reports" / search_id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    for kind in ("md", "html"):
        (folder / f"report.{kind}").write_text(client.get_text(f"searches/{search_id}/report.{kind}"))
    return folder


def show(console: Console, report: dict[str, Any]) -> None:
    """The trials, best first; what matters; the best recipe as a difference, and what to run next."""
    console.print()
    console.print(_trials_table(report))
    console.print("\n[bold]What matters[/]")
    if report["importance"]["message"]:
        console.print(report["importance"]["message"], highlight=False, soft_wrap=True)
    for one in report["importance"]["parameters"]:
        bar = "█" * max(1, round(_BAR * one["importance"]))
        console.print(f"  {one['name']:<14} {bar} {100 * one['importance']:.0f} %", highlight=False)
    for line in report["regularisation"]:
        console.print(f"  {line}", highlight=False, soft_wrap=True)
    if report["warning"]:
        console.print(f"\n[yellow]Warning[/]: {report['warning']}", highlight=False, soft_wrap=True)
    if report["best"] is not None:
        _show_best(console, report)


def train_command(report: dict[str, Any]) -> str:
    """The `uplift train` that trains the best recipe on the search's data."""
    searched = report["search"]
    documents = report["best"]["recipe"].get("objective") == "continued_pretraining"
    words = ["uplift", "train", "--corpus" if documents else "--data", searched["dataset"] or searched["training_file"]]
    if searched["validation_file"]:
        words += ["--validation", searched["validation_file"]]
    words += ["--model", searched["model"]]
    for name, value in report["best"]["recipe"].items():
        words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)


def _show_best(console: Console, report: dict[str, Any]) -> None:
    best, base = report["best"], report["base_value"]
    than = f", the base recipe's {base:.4f}" if base is not None else ""
    console.print(
        f"\n[bold]Best recipe[/]: trial {best['number']}, validation loss {best['value']:.4f}{than}", highlight=False
    )
    for name, change in best["changes"].items():
        console.print(f"  {name:<14} {short(change['from'])} → {short(change['to'])}", highlight=False, markup=False)
    if not best["changes"]:
        console.print("  It is the base recipe itself: nothing that was tried was better.", highlight=False)
    if report["search"]["init_adapter"]:
        adapter, recipe = report["search"]["init_adapter"], json.dumps(best["recipe"])
        said = [f"\nTrain with it: a fine-tuning job with init_adapter {adapter} and recipe {recipe}"]
    else:
        said = [f"\nTrain with it: {train_command(report)}"]
    if best["fine_tuned_model"]:
        said.append(f'Ask its trial\'s model: uplift ask {best["fine_tuned_model"]} "your question"')
    said.append("The lowest of many losses flatters: compare on questions that no trial saw before you rely on it.")
    for line in said:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _trials_table(report: dict[str, Any]) -> Table:
    names = list(report["search"]["space"])
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("trial", "state", "validation loss", *names):
        table.add_column(title, justify="left" if title == "state" else "right", no_wrap=True)
    best = report["best"]["number"] if report["best"] else None
    for one in sorted(report["trials"], key=_rank):
        star = " ★" if one["number"] == best else ""
        loss = "–" if one["value"] is None else f"{one['value']:.4f}{star}"
        table.add_row(str(one["number"]), one["status"], loss, *(short(one["params"][name]) for name in names))
    return table


def _rank(trial: dict[str, Any]) -> tuple[bool, float, int]:
    """Complete trials first, the lowest loss first; what was never measured comes last."""
    loss = float("inf") if trial["value"] is None else trial["value"]
    return trial["status"] != "complete", loss, trial["number"]


def _interrupted(client: Client, console: Console, search_id: str) -> None:
    if console.is_terminal and typer.confirm("\nCancel the search too?", default=False, err=True):
        client.post(f"searches/{search_id}/cancel")
        console.print(f"Search {search_id} is cancelled; its complete trials are kept.", highlight=False)
        return
    console.print(
        f"Search {search_id} goes on. Watch it: uplift searches follow {search_id}\n"
        f"Cancel it: uplift searches cancel {search_id}",
        highlight=False,
        soft_wrap=True,
    )


def _json(text: str | None, option: str) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"this is not JSON: {error}", param_hint=option) from error
