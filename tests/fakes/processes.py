"""Real processes for fault tests: a dispatcher and workers that a test can kill, each in its own group."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FAST = {
    "UPLIFT_LEASE_SECONDS": "2",
    "UPLIFT_HEARTBEAT_SECONDS": "0.5",
    "UPLIFT_RECONCILE_SECONDS": "0.3",
    "UPLIFT_UNCLAIMED_SECONDS": "1",
}


class Process:
    """A child process whose readiness is a file and whose death the test decides."""

    def __init__(self, argv: list[str], environment: dict[str, str], folder: Path, name: str) -> None:
        self.log = folder / f"{name}-{time.monotonic_ns()}.log"
        self.ready_file = self.log.with_suffix(".ready")
        self._argv = argv
        self._environment = environment | FAST | {"UPLIFT_READY_FILE": str(self.ready_file)}

    def start(self) -> "Process":
        with self.log.open("wb") as sink:
            self.child = subprocess.Popen(
                self._argv, cwd=ROOT, env=self._environment, stdout=sink, stderr=sink, start_new_session=True
            )
        wait_until(lambda: self.ready_file.exists() or self.child.poll() is not None, seconds=60)
        # it may have been ready and then died at once: that is what some tests want
        assert self.ready_file.exists(), self.log.read_text()[-3000:]
        return self

    def signal(self, number: int) -> None:
        os.killpg(self.child.pid, number)

    def is_dead(self) -> bool:
        return self.child.poll() is not None

    def kill(self) -> None:
        if self.child.poll() is None:
            self.signal(signal.SIGKILL)
        self.child.wait(10)

    def terminate(self, seconds: float = 20) -> int:
        self.signal(signal.SIGTERM)
        return self.child.wait(seconds)


def worker(
    environment: dict[str, str], folder: Path, *, app: str = "tests.fakes.echo_worker", slots: int = 2
) -> Process:
    argv = [sys.executable, "-m", "celery", "-A", app, "worker", "--pool", "threads", "-c", str(slots)]
    argv += ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "INFO"]
    argv += ["-n", f"w{time.monotonic_ns()}@%h"]
    return Process(argv, environment, folder, "worker").start()


def dispatcher(environment: dict[str, str], folder: Path) -> Process:
    return Process([sys.executable, "-m", "shared.dispatcher"], environment, folder, "dispatcher").start()


@contextmanager
def killed_at_the_end(*processes: Process) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            process.kill()


def wait_until(true: Callable[[], bool], *, seconds: float) -> float:
    """Wait for a condition; answers how long it took, fails after `seconds`."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"not true within {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - began
