"""The supervisor's public state: a small JSON file that `up`, `status` and `down` read."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from deploy.local.child import create_time


@dataclass
class ProcessState:
    """One process as last seen; `created` tells it from a later process with the same pid."""

    name: str
    pid: int
    created: float
    restarts: int = 0


@dataclass
class StackState:
    """`phase` is starting, ready, stopping, stopped or failed; `steps` are what the start did so far, none left out."""

    phase: str
    pid: int
    created: float
    port: int
    error: str = ""
    steps: list[str] = field(default_factory=list)
    processes: list[ProcessState] = field(default_factory=list)

    def write(self, path: Path) -> None:
        partial = path.with_suffix(".new")
        partial.write_text(json.dumps(asdict(self), indent=2))
        os.replace(partial, path)  # noqa: PTH105

    def supervisor_lives(self) -> bool:
        return lives(self.pid, self.created)


def read(path: Path) -> StackState | None:
    """The last written state; None if there is none, or it was torn by a full disk."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    processes = [ProcessState(**one) for one in found.pop("processes")]
    return StackState(**found, processes=processes)


def lives(pid: int, created: float) -> bool:
    """Whether that very process still runs."""
    now = create_time(pid)
    return now is not None and abs(now - created) < 1.0
