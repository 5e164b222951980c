"""`uplift models`: what can be asked by name, and how to bring in another model."""

import json
import os
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.local.models.pull import pull as pull_model
from services.cli.client import Client
from shared.settings import Settings

app = typer.Typer(help="List the models that answer; bring in new ones.", no_args_is_help=True)


@app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Base models first, then releases, variants and adapters newest first, embedders last."""
    with Client(Settings()) as client:
        found = client.get("models")["data"]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table("model", "kind", box=None, header_style="bold")
    for model in found:
        table.add_row(model["id"], model.get("kind", ""))
    Console().print(table)


@app.command("pull")
def pull(
    names: Annotated[list[str], typer.Argument(help="Known names, Hub ids (org/name) or local folders.")],
) -> None:
    """Bring models into $UPLIFT_HOME/models; what is there is reused. Only safetensors, never code."""
    console = Console(stderr=True)
    # pulling is the one moment at which the Hub may be asked
    os.environ.pop("HF_HUB_OFFLINE", None)
    os.environ.setdefault("TQDM_DISABLE", "1")
    for name in names:
        with console.status(name) as spinner:
            pull_model(name, Settings().models_dir, lambda step, at=spinner: _say(console, at, step))  # type: ignore[misc]


def _say(console: Console, spinner: object, step: str) -> None:
    if step.endswith(("reused", "ready")):
        console.print(f"[green]✓[/] {step}")
    else:
        spinner.update(step)  # type: ignore[attr-defined]
