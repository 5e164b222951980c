"""The supervisor: starts everything in order, keeps it running, stops it in reverse. Run by `uplift up` as a daemon."""

import errno
import fcntl
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from types import FrameType

from deploy.local.child import Child, Identity, ProcessSpec, create_time, rotate, tethered
from deploy.local.control import reap_leftovers
from deploy.local.credentials import write_private
from deploy.local.engines import NEEDED_MB, EmbeddedEngines, engines_from_environment
from deploy.local.errors import AlreadyRunning, DiskFull, PortTaken, StackError
from deploy.local.layout import Layout
from deploy.local.processes import ROOT, Step, environment, once_before, processes
from deploy.local.state import ProcessState, StackState
from shared.stop_flag import StopFlag

ALREADY_RUNNING = 2
"""The exit status of a supervisor that finds another one."""
_POLL_SECONDS = 0.2
_START_SECONDS = 180
_BACKOFF_SECONDS = (1, 2, 4, 8, 15, 30)
_HEALTHY_AFTER_SECONDS = 60


class Stopped(Exception):
    """SIGTERM or SIGINT came while starting."""


class Supervisor:
    """Owns every process of one home. `steps` run once, `specs` are kept running; both come after the engines."""

    def __init__(
        self,
        home: Path,
        port: int,
        *,
        steps: Callable[[EmbeddedEngines, Mapping[str, str]], list[Step]] = once_before,
        specs: Callable[[Layout, Mapping[str, str], int], list[ProcessSpec]] = processes,
    ) -> None:
        self.layout = Layout(home)
        self._port = port
        self._steps, self._specs = steps, specs
        self._engines = engines_from_environment(home)
        self._children: list[Child] = []
        self._restarts: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._stop = StopFlag()
        self.state = StackState("starting", os.getpid(), create_time(os.getpid()) or 0.0, port)

    def run(self) -> int:
        """Start, supervise until a signal, stop. Answers the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self.layout.make()
        try:
            with lock(self.layout.lock):
                return self._run_locked()
        except AlreadyRunning as error:
            _note(str(error))
            return ALREADY_RUNNING

    def _run_locked(self) -> int:
        reap_leftovers(self.layout)
        try:
            self._start()
            self._say("ready")
            self._supervise()
        except Stopped:
            pass  # asked to stop while starting: stop, and that is a success
        except (StackError, OSError, subprocess.SubprocessError) as failure:
            self.state.error = self._explain(failure)
            _note(self.state.error)
        finally:
            self._say("stopping")
            self._stop_all()
        self._say("failed" if self.state.error else "stopped")
        return 1 if self.state.error else 0

    def _start(self) -> None:
        check_port(self._port)
        self._say("starting", "start Postgres and Valkey")
        self._engines.start()
        self._children = list(self._engines.children)
        told = environment(self._engines, self._port)
        self._write_environment(told)
        for step in self._steps(self._engines, told):
            self._check_stop()
            self._say("starting", step.name)
            self._run_once(step)
        self._say("starting", "start the workers and the gateway")
        for spec in self._specs(self.layout, told, self._port):
            self._check_stop()
            child = Child(spec, self.layout.logs)
            child.start()
            self._children.append(child)
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + _START_SECONDS
        waiting = list(self._children)
        while waiting:
            self._check_stop()
            self._say("starting", f"wait for {', '.join(child.spec.name for child in waiting)}")
            for child in waiting:
                if child.exit_code() is not None:
                    raise StackError(f"{child.spec.name} ended while starting:\n{child.log_end()}")
            if time.monotonic() > until:
                names = ", ".join(child.spec.name for child in waiting)
                raise StackError(f"Not ready after {_START_SECONDS} s: {names}. Their logs are in {self.layout.logs}.")
            waiting = [child for child in waiting if not child.is_ready()]
            self._stop.wait(_POLL_SECONDS if waiting else 0)

    def _supervise(self) -> None:
        """Restart what ends, with growing patience; keep logs in bounds."""
        looked_at_logs = time.monotonic()
        while not self._stop.wait(_POLL_SECONDS):
            for child in self._children:
                if child.exit_code() is not None:
                    self._restart(child)
            if time.monotonic() - looked_at_logs > 10:
                looked_at_logs = time.monotonic()
                for child in self._children:
                    rotate(child.log)

    def _restart(self, child: Child) -> None:
        name = child.spec.name
        if name not in self._due:
            if time.time() - child.started_at > _HEALTHY_AFTER_SECONDS:
                self._restarts[name] = 0
            patience = _BACKOFF_SECONDS[min(self._restarts.get(name, 0), len(_BACKOFF_SECONDS) - 1)]
            self._due[name] = time.monotonic() + patience
            _note(f"{name} ended with status {child.exit_code()}; it starts again in {patience} s")
        elif time.monotonic() >= self._due[name]:
            del self._due[name]
            self._restarts[name] = self._restarts.get(name, 0) + 1
            child.start()
            self._say("ready")

    def _stop_all(self) -> None:
        """Stage by stage from the last: the gateway, then the workers together, the dispatcher, and the engines."""
        engines = self._engines.children
        others = [child for child in self._children if child not in engines]
        for _, stage in groupby(reversed(others), key=lambda child: child.spec.stage):
            stoppers = [threading.Thread(target=child.stop) for child in stage]
            for stopper in stoppers:
                stopper.start()
            for stopper in stoppers:
                stopper.join()
        self._engines.stop()

    def _run_once(self, step: Step) -> None:
        """Run a step to its end; its output is for the error message. Like a child, it dies with us."""
        argv = tethered(step.argv, signal.SIGKILL, Identity())
        ran = subprocess.run(argv, cwd=ROOT, env=step.environment, capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            raise StackError(f"Could not {step.name}:\n{ran.stdout[-1500:]}{ran.stderr[-3000:]}")

    def _write_environment(self, told: dict[str, str]) -> None:
        names = ("UPLIFT_HOME", "UPLIFT_PORT", "UPLIFT_SECRET", "DATABASE_URL", "REDIS_URL")
        values = {**{name: told[name] for name in names}, "DATABASE_ADMIN_URL": self._engines.admin_url}
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in values.items()]
        write_private(self.layout.environment, "".join(lines))

    def _say(self, phase: str, step: str = "") -> None:
        self.state.phase = phase
        if step and step not in self.state.steps[-1:]:
            self.state.steps.append(step)
        self.state.processes = [
            ProcessState(c.spec.name, c.pid, create_time(c.pid) or 0.0, self._restarts.get(c.spec.name, 0))
            for c in self._children
        ]
        try:
            self.state.write(self.layout.state)
        except OSError as error:  # a full disk must not keep us from stopping, or from serving what still works
            _note(f"cannot write {self.layout.state}: {error}")

    def _explain(self, failure: Exception) -> str:
        if isinstance(failure, OSError) and failure.errno == errno.ENOSPC:
            return str(DiskFull(self.layout.home, shutil.disk_usage(self.layout.home).free // 2**20, NEEDED_MB))
        return str(failure)

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop.set()


class lock:
    """The home's one supervisor: a kernel lock, gone with its holder, so never stale."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise AlreadyRunning(
                f"Another supervisor runs for this home ({self._path}): see `uplift status`."
            ) from None

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _note(text: str) -> None:
    """One line in the supervisor's log."""
    sys.stderr.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")


def check_port(port: int) -> None:
    """Raise PortTaken while somebody listens on the gateway's port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PortTaken(port) from error


if __name__ == "__main__":
    from shared.settings import Settings

    found = Settings()
    sys.exit(Supervisor(found.home, found.port).run())
