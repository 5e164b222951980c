"""`uplift doctor`: is this machine fit, or with a job, was its training; and if not, what to do about it."""

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import psutil
import typer
from rich.console import Console

from deploy.local import control
from deploy.local.errors import StackError
from deploy.local.layout import Layout
from deploy.local.models.catalogue import CATALOGUE
from deploy.local.postgres import choose_identity
from deploy.local.supervisor import check_port
from deploy.local.valkey import find_server
from services.cli import diagnosis
from services.cli.client import Client
from services.cli.tables import wide_console
from shared.settings import Settings

MARKS = {"ok": "[green]✓[/]", "warn": "[yellow]![/]", "fail": "[red]✗[/]"}
_NEED_DISK_GB, _NEED_MEMORY_GB = 3, 6


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: ok, warn or fail, and what to do."""

    level: str
    text: str


def doctor(
    job: Annotated[str | None, typer.Argument(help="A fine-tuning job to diagnose; without one, this machine.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Train again with the first finding's remedy.")] = False,
    curve: Annotated[bool, typer.Option("--curve", help="Train on less data, to forecast what more brings.")] = False,
) -> None:
    """Check Python, disk, memory, port, models and engines; exit status 1 if something must be mended.

    With a fine-tuning job: what went wrong in its training, on what evidence, and the remedy.
    """
    settings = Settings()
    if job is not None:
        _diagnose(settings, job, apply=apply, curve=curve)
        return
    if apply or curve:
        raise typer.BadParameter("--apply and --curve need a fine-tuning job.")
    findings = list(examine(settings))
    console = Console()
    for finding in findings:
        console.print(f"{MARKS[finding.level]} {finding.text}", highlight=False)
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(1)


def _diagnose(settings: Settings, job: str, *, apply: bool, curve: bool) -> None:
    with Client(settings) as client:
        found = client.get(f"fine_tuning/jobs/{job}/diagnosis")
        events = client.everything(f"fine_tuning/jobs/{job}/events")
        steps = sorted((event["data"] for event in events if event["type"] == "metrics"), key=lambda data: data["step"])
        diagnosis.show(wide_console(), found, steps)
        if apply:
            made = client.post(f"fine_tuning/jobs/{job}/remedy")
            typer.echo(f"Started {made['id']}; `uplift doctor {job}` shows both scores when it is done.")
        if curve:
            started = " and ".join(one["id"] for one in client.post(f"fine_tuning/jobs/{job}/learning_curve")["data"])
            typer.echo(f"Started {started}; `uplift doctor {job}` forecasts when they are done.")


def examine(settings: Settings) -> Iterator[Finding]:
    """Every check, cheapest first."""
    yield Finding("ok", f"Python {sys.version.split()[0]}, torch {importlib.metadata.version('torch')}")
    yield _disk(settings)
    yield _memory()
    yield _home(settings)
    yield from _models(settings)
    yield _postgres(settings)
    yield _valkey()
    yield _port(settings)


def _disk(settings: Settings) -> Finding:
    existing = next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 2**30
    if free < _NEED_DISK_GB:
        return Finding("fail", f"{free:.1f} GB free at {existing}: at least {_NEED_DISK_GB} GB are needed")
    return Finding("ok", f"{free:.0f} GB free at {existing}")


def _memory() -> Finding:
    total = psutil.virtual_memory().total / 2**30
    level = "ok" if total >= _NEED_MEMORY_GB else "warn"
    return Finding(
        level, f"{total:.0f} GB of memory, {os.cpu_count()} cores (the demo peaks below {_NEED_MEMORY_GB} GB)"
    )


def _home(settings: Settings) -> Finding:
    existing = next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        return Finding("fail", f"{existing} is not writable: set UPLIFT_HOME to a folder of yours")
    return Finding("ok", f"home: {settings.home}")


def _models(settings: Settings) -> Iterator[Finding]:
    for name in CATALOGUE:
        if (settings.models_dir / name / "config.json").exists():
            yield Finding("ok", f"model {name}")
        else:
            yield Finding("warn", f"model {name} is not here: uplift models pull {name}")


def _postgres(settings: Settings) -> Finding:
    if os.environ.get("DATABASE_URL"):
        return Finding("ok", "Postgres: yours (DATABASE_URL)")
    try:
        identity = choose_identity(settings.home)
    except StackError as error:
        return Finding("fail", str(error))
    ways = {
        "same": "as you",
        "namespace": "in a user namespace, since you are root",
        "user": f"as uid {identity.uid} with its data under /var/lib/uplift, since you are root",
    }
    return Finding("ok", f"Postgres: embedded, runs {ways[identity.kind]}")


def _valkey() -> Finding:
    if os.environ.get("REDIS_URL"):
        return Finding("ok", "Valkey: yours (REDIS_URL)")
    try:
        find_server()
    except StackError as error:
        return Finding("fail", str(error))
    return Finding("ok", "Valkey: embedded")


def _port(settings: Settings) -> Finding:
    running = control.running(Layout(settings.home))
    if running is not None:
        return Finding("ok", f"running on port {running.port}")
    try:
        check_port(settings.port)
    except StackError as error:
        return Finding("fail", str(error))
    return Finding("ok", f"port {settings.port} is free")
