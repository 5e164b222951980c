"""`uplift searches`: earlier searches and those that run; watch, pause, resume, cancel one."""

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from services.cli.client import Client
from services.cli.search import watch_and_show
from services.cli.tables import wide_console
from shared.settings import Settings

app = typer.Typer(help="Look at searches; watch, pause, resume and cancel them.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("list")
def list_searches(as_json: AsJson = False) -> None:
    """The project's searches, newest first."""
    with Client(Settings()) as client:
        found = list(client.everything("searches"))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    wide_console().print(searches_table(found))


@app.command("follow")
def follow_search(search_id: str, as_json: AsJson = False) -> None:
    """Watch a search until it ends, then show and save its report; at once if it has ended."""
    console = wide_console(stderr=as_json)
    with Client(Settings()) as client:
        watch_and_show(client, console, client.get(f"searches/{search_id}"), as_json=as_json)


@app.command("pause")
def pause_search(search_id: str) -> None:
    """Start nothing more and pause what runs; its minutes stand still."""
    _steer(search_id, "pause")


@app.command("resume")
def resume_search(search_id: str) -> None:
    """Go on where it was paused."""
    _steer(search_id, "resume")


@app.command("cancel")
def cancel_search(search_id: str) -> None:
    """End it and cancel what runs; what is complete stays."""
    _steer(search_id, "cancel")


def searches_table(found: list[dict[str, Any]]) -> Table:
    """One row a search; ids are whole on any terminal."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("search", "status", "model", "trials", "best validation loss"):
        table.add_column(title, no_wrap=True)
    for one in found:
        begun = sum(one["progress"]["trials"].values())
        best = f"{one['best']['value']:.4f}" if one["best"] else "–"
        table.add_row(one["id"], one["status"], one["model"], f"{begun} of {one['trials']}", best)
    return table


def _steer(search_id: str, wish: str) -> None:
    with Client(Settings()) as client:
        found = client.post(f"searches/{search_id}/{wish}")
    typer.echo(f"{found['id']}: {found['status']}")
