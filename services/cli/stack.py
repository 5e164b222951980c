"""`uplift up`, `down`, `status`: the embedded stack, seen from the terminal."""

import json
import shlex
import time
from typing import Annotated, Any

import psutil
import redis
import typer
from rich.console import Console
from rich.table import Table

from deploy.local import control
from deploy.local.errors import StackError
from deploy.local.layout import Layout
from deploy.local.processes import QUEUES
from deploy.local.state import StackState
from shared.settings import Settings


def up() -> None:
    """Start the platform on this machine and return when it is ready."""
    console = Console(stderr=True)
    layout = Layout(Settings().home)
    found = control.running(layout)
    if found is not None and found.phase == "ready":
        console.print(f"Already running: http://127.0.0.1:{found.port}/v1")
        return
    began = time.monotonic()
    with console.status("start") as spinner:
        ready = control.up(layout, lambda step: spinner.update(step))
    seconds = time.monotonic() - began
    console.print(f"[green]✓[/] Uplift is ready at http://127.0.0.1:{ready.port}/v1 ({seconds:.1f} s)")
    console.print(f"  credentials: {layout.home / 'credentials.env'}   logs: {layout.logs}", highlight=False)


def down() -> None:
    """Stop the platform; nothing is left running."""
    console = Console(stderr=True)
    with console.status("stop"):
        was_running = control.down(Layout(Settings().home))
    console.print("[green]✓[/] Stopped." if was_running else "Nothing was running.")


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Every process with its memory and restarts, and how many messages wait in each queue."""
    layout = Layout(Settings().home)
    found = control.running(layout)
    if found is None:
        raise StackError("Nothing is running for this home. Start it with `uplift up`.")
    rows = [_process_row(one.name, one.pid, one.restarts) for one in found.processes]
    waiting = _queue_lengths(layout)
    if as_json:
        typer.echo(
            json.dumps({"phase": found.phase, "port": found.port, "processes": rows, "queues": waiting}, indent=2)
        )
        return
    Console().print(_table(found, rows))
    lengths = ", ".join(f"{name} {length}" for name, length in waiting.items()) or "unknown, Valkey does not answer"
    Console().print(f"waiting: {lengths}", highlight=False)


def _table(found: StackState, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=f"{found.phase} on port {found.port}", box=None, header_style="bold", title_justify="left")
    for column in ("process", "pid", "memory MB", "restarts", "up"):
        table.add_column(column, justify="left" if column == "process" else "right")
    for row in rows:
        minutes = f"{row['up_seconds'] / 60:.0f} min" if row["alive"] else "[red]down[/]"
        table.add_row(row["name"], str(row["pid"]), str(row["memory_mb"]), str(row["restarts"]), minutes)
    table.add_section()
    table.add_row("together", "", str(sum(row["memory_mb"] for row in rows)), "", "")
    return table


def _process_row(name: str, pid: int, restarts: int) -> dict[str, Any]:
    """Memory counts the process and its children (a training run), in MB; pages shared with others count in part."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        memory = sum(_memory(one) for one in family) // 2**20
        up_seconds = time.time() - process.create_time()
    except psutil.NoSuchProcess:
        return {"name": name, "pid": pid, "memory_mb": 0, "restarts": restarts, "up_seconds": 0, "alive": False}
    return {
        "name": name,
        "pid": pid,
        "memory_mb": memory,
        "restarts": restarts,
        "up_seconds": up_seconds,
        "alive": True,
    }


def _memory(process: psutil.Process) -> int:
    """Proportional set size, or the resident set where the kernel does not tell; bytes."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return int(process.memory_info().rss)


def _queue_lengths(layout: Layout) -> dict[str, int]:
    """Messages waiting per queue; empty while Valkey is not there (yet)."""
    if not layout.environment.exists():
        return {}
    told = dict(word.split("=", 1) for word in shlex.split(layout.environment.read_text()))
    try:
        with redis.Redis.from_url(told["REDIS_URL"], socket_timeout=2) as client:
            return {name: client.llen(name) for name in QUEUES}
    except redis.RedisError:
        return {}
