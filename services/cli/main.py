"""The `uplift` command: assembles the subcommands and turns known failures into one readable line."""

import sys

import typer
from rich.console import Console

from deploy.local.errors import StackError
from deploy.local.models.errors import ModelError
from services.cli import ask, doctor, export, improve, jobs, keys, models, search, searches, stack, train
from services.cli.client import ApiError
from services.cli.corpus import NothingToUpload

cli = typer.Typer(
    help="Make a generative model better on your own domain, and prove by how much.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
cli.command("up")(stack.up)
cli.command("down")(stack.down)
cli.command("status")(stack.status)
cli.command("doctor")(doctor.doctor)
cli.command("improve")(improve.improve)
cli.command("train")(train.train)
cli.command("export")(export.export)
cli.command("ask")(ask.ask)
cli.command("search")(search.search)
cli.add_typer(jobs.app, name="jobs")
cli.add_typer(searches.app, name="searches")
cli.add_typer(models.app, name="models")
cli.add_typer(keys.app, name="keys")


def app() -> None:
    """The entry point."""
    try:
        cli()
    except (ApiError, StackError, ModelError, NothingToUpload) as error:
        Console(stderr=True).print(f"[red]✗[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)
