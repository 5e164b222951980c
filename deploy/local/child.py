"""One supervised process: started in its own group, tied to our life, its output in a log file, stopped with grace."""

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

_LOG_LIMIT = 20 * 1024 * 1024
_TETHER = Path(__file__).with_name("tether.py")


@dataclass(frozen=True)
class Identity:
    """As whom a process runs: as we are, looking like `uid` inside a user namespace, or really as user `uid`."""

    kind: Literal["same", "namespace", "user"] = "same"
    uid: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "same" else f"{self.kind}:{self.uid}"


@dataclass(frozen=True)
class ProcessSpec:
    """What to start, how to tell that it is ready, how to stop it."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: int = signal.SIGTERM
    death_signal: int = signal.SIGKILL
    """What the kernel sends when the supervisor itself is killed: the engines get their stop signal instead."""
    grace_seconds: float = 20.0
    identity: Identity = field(default_factory=Identity)
    ready_marker: Path | None = None
    """A file that the process makes when it is ready."""
    ready_port: int | None = None
    """A loopback port where GET /readyz answers 200 when the process is ready."""
    stage: int = 0
    """Stages stop in reverse, everything of one stage at once."""


class Child:
    """A running (or ended) process of a spec."""

    def __init__(self, spec: ProcessSpec, logs: Path) -> None:
        self.spec = spec
        self.log = logs / f"{spec.name}.log"
        self.started_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._group_gone = True

    def start(self) -> None:
        rotate(self.log)
        if self.spec.ready_marker is not None:
            self.spec.ready_marker.parent.mkdir(parents=True, exist_ok=True)
            self.spec.ready_marker.unlink(missing_ok=True)
        with self.log.open("ab") as sink:
            self._process = subprocess.Popen(
                tethered(self.spec.argv, self.spec.death_signal, self.spec.identity),
                env=dict(self.spec.environment) or None,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._group_gone = False
        self.started_at = time.time()

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs. Once it has ended, whatever it left in its group has been killed too."""
        code = None if self._process is None else self._process.poll()
        if code is not None:
            self._end_group()
        return code

    def is_ready(self) -> bool:
        marker = self.spec.ready_marker
        if self.exit_code() is not None or (marker is not None and not marker.exists()):
            return False
        return self.spec.ready_port is None or _answers(self.spec.ready_port)

    def stop(self) -> None:
        """Ask, wait for the grace, then kill the whole group."""
        if self._process is None or self.exit_code() is not None:
            return
        self._process.send_signal(self.spec.stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):  # the kill below is what the grace was for
            self._process.wait(self.spec.grace_seconds)
        self._end_group()
        self._process.wait()

    def log_end(self, lines: int = 15) -> str:
        """The last lines of its log, for an error message."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _end_group(self) -> None:
        """Once only: a group's number may be somebody else's later."""
        if not self._group_gone:
            self._group_gone = True
            kill_group(self.pid)


def tethered(argv: Sequence[str], death_signal: int, identity: Identity) -> list[str]:
    """The argument list that runs `argv` as `identity`, tied to this process."""
    tether = [sys.executable, "-S", "-E", str(_TETHER), str(int(death_signal)), str(os.getpid())]
    return [*tether, str(identity), *argv]


def kill_group(group: int) -> None:
    """SIGKILL what is left of a process group; nothing left is fine."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def rotate(log: Path, limit: int = _LOG_LIMIT) -> None:
    """Keep one older log: copy and truncate, since the process goes on writing to the same file."""
    if log.exists() and log.stat().st_size > limit:
        shutil.copyfile(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)


def create_time(pid: int) -> float | None:
    """When the process began (to tell it from a later one with the same pid); None if there is none."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def _answers(port: int) -> bool:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=2)) as connection:
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False  # not listening yet
