"""`uplift keys`: make, list and revoke API keys of your project."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from services.cli.client import Client
from shared.settings import Settings

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="read, write, train or admin; repeat for several. Left out: all of yours.")
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, help="The key ends after so many days. Left out: never.")] = None,
) -> None:
    """Make a key; it is shown now and never again."""
    body = {"name": name, "scopes": scope or None, "expires_in_seconds": days and days * 86400}
    with Client(Settings()) as client:
        made = client.post("keys", body)
    typer.echo(made["key"])
    typer.echo(f"{made['id']} ({name}). Keep it now: only its hash is stored.", err=True)


@app.command("list")
def list_keys() -> None:
    """The project's keys, revoked ones too."""
    with Client(Settings()) as client:
        found = list(client.everything("keys"))
    table = Table("id", "name", "key", "scopes", "state", box=None, header_style="bold")
    for key in found:
        table.add_row(
            key["id"], key["name"], key["hint"], ", ".join(key["scopes"]), "revoked" if key["revoked_at"] else "live"
        )
    Console().print(table)


@app.command("revoke")
def revoke(key_id: str) -> None:
    """End a key at once."""
    with Client(Settings()) as client:
        client.delete(f"keys/{key_id}")
    typer.echo(f"{key_id} is revoked.")
