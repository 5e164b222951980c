"""`uplift jobs`: what is queued, running and done, and how to stop it."""

import json
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from services.cli.client import Client
from services.cli.tables import wide_console
from services.cli.watching import TrainingBoard, raise_unless_succeeded, watch
from shared.settings import Settings

app = typer.Typer(help="Look at jobs and cancel them.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
COLOURS = {"succeeded": "green", "failed": "red", "running": "cyan", "cancelled": "yellow"}


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many, newest first.")] = 20,
    status: Annotated[str | None, typer.Option(help="Only queued, running, paused, succeeded, failed, …")] = None,
    as_json: AsJson = False,
) -> None:
    """The newest jobs."""
    with Client(Settings()) as client:
        found = client.get("jobs", limit=limit, status=status)["data"]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    wide_console().print(jobs_table(found))


@app.command("show")
def show_job(job_id: str) -> None:
    """One job, whole, with its newest events."""
    with Client(Settings()) as client:
        job = client.get(f"jobs/{job_id}")
        events = client.get(f"jobs/{job_id}/events", limit=10)["data"]
    typer.echo(json.dumps(job | {"events": events}, indent=2))


@app.command("cancel")
def cancel_job(job_id: str) -> None:
    """Cancel: at once if it waits, at its next check if it runs."""
    with Client(Settings()) as client:
        job = client.post(f"jobs/{job_id}/cancel")
    typer.echo(f"{job['id']}: {job['status']}" + ("" if job["status"] == "cancelled" else ", cancelling"))


@app.command("follow")
def follow_job(job_id: str, as_json: AsJson = False) -> None:
    """Watch a job until it ends: what it says and how far it is. Ctrl-C stops watching; the job goes on."""
    with Client(Settings()) as client, TrainingBoard(wide_console(stderr=as_json)) as board:
        end = watch(client, f"jobs/{job_id}", board)
        job = client.get(f"jobs/{job_id}")
    if as_json:
        typer.echo(json.dumps(job, indent=2))
    raise_unless_succeeded(job_id, end)


def jobs_table(found: list[dict[str, Any]]) -> Table:
    """One row a job, newest first; ids are whole on any terminal, for they are there to be copied."""
    longest = max((len(job["id"]) for job in found), default=2)
    whole_id = Column("id", no_wrap=True, min_width=longest)
    table = Table(whole_id, "kind", "status", "progress", "attempt", "created", box=None, header_style="bold")
    for job in found:
        colour = COLOURS.get(job["status"], "white")
        created = datetime.fromtimestamp(job["created_at"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        status = f"[{colour}]{job['status']}[/]"
        table.add_row(job["id"], job["kind"], status, _progress(job), str(job["attempt"]), created)
    return table


def _progress(job: dict[str, Any]) -> str:
    found = job["progress"]
    # what a job said last before it was done is not how far it came
    if job["status"] == "succeeded" or not found or not found.get("total"):
        return ""
    return f"{100 * found['done'] / found['total']:.0f} %"
