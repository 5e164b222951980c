"""One supervised process: started in its own group, tied to our life, its output in a log file, stopped with grace."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_LOG_LIMIT = 20 * 1024 * 1024
_TETHER = Path(__file__).with_name("tether.py")


@dataclass(frozen=True)
class Identity:
    """As whom a process runs: as we are, inside a user namespace, or as another uid and gid."""

    namespace: str = "none"
    uid: int | None = None


@dataclass(frozen=True)
class ProcessSpec:
    """What to start and how to stop it."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: int = signal.SIGTERM
    grace_seconds: float = 20.0
    identity: Identity = field(default_factory=Identity)
    ready_marker: Path | None = None


class Child:
    """A running (or ended) process of a spec."""

    def __init__(self, spec: ProcessSpec, logs: Path) -> None:
        self.spec = spec
        self.log = logs / f"{spec.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        rotate(self.log)
        if self.spec.ready_marker is not None:
            self.spec.ready_marker.parent.mkdir(parents=True, exist_ok=True)
            self.spec.ready_marker.unlink(missing_ok=True)
        with self.log.open("ab") as sink:
            self._process = subprocess.Popen(
                self._command(),
                env=dict(self.spec.environment) or None,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self.spec.identity.uid,
                group=self.spec.identity.uid,
                extra_groups=[] if self.spec.identity.uid is not None else None,
            )
        self.started_at = time.time()

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs."""
        return None if self._process is None else self._process.poll()

    def is_ready(self) -> bool:
        marker = self.spec.ready_marker
        return self.exit_code() is None and (marker is None or marker.exists())

    def stop(self) -> None:
        """Ask, wait for the grace, then kill the whole group."""
        if self._process is None:
            return
        if self.exit_code() is None:
            self._process.send_signal(self.spec.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):  # the kill below is what the grace was for
                self._process.wait(self.spec.grace_seconds)
        kill_group(self._process.pid)
        self._process.wait()

    def log_end(self, lines: int = 15) -> str:
        """The last lines of its log, for an error message."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _command(self) -> list[str]:
        if self.spec.identity.uid is not None:
            # the other user may not be able to read our interpreter; `down` reaps by the recorded pid instead
            return list(self.spec.argv)
        tether = [sys.executable, "-S", "-E", str(_TETHER), str(int(self.spec.stop_signal)), str(os.getpid())]
        return [*tether, self.spec.identity.namespace, *self.spec.argv]


def kill_group(group: int) -> None:
    """SIGKILL what is left of a process group; nothing left is fine."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


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
