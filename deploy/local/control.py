"""Starting and stopping the supervisor from outside: what `uplift up` and `uplift down` do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deploy.local import state as states
from deploy.local.child import kill_group
from deploy.local.errors import HomeNotWritable, StackError
from deploy.local.layout import Layout
from deploy.local.state import StackState
from shared.stop_flag import StopFlag

ROOT = Path(__file__).resolve().parents[2]
_STOP_SECONDS = 120
_SUPERVISE = (sys.executable, "-m", "deploy.local.supervisor")


def running(layout: Layout) -> StackState | None:
    """The live supervisor's state, or None."""
    found = states.read(layout.state)
    return found if found is not None and found.supervisor_lives() else None


def up(layout: Layout, say: Callable[[str], None], *, argv: tuple[str, ...] = _SUPERVISE) -> StackState:
    """Start the stack and wait until it is ready; `say` hears each step. Interrupted, it leaves nothing running.

    A stack that somebody else is starting is waited for; one that is stopping is let go first.
    """
    found = running(layout)
    if found is not None and found.phase in {"starting", "ready"}:
        with _interrupts() as interrupted:
            return _wait_until_ready(layout, found.pid, say, found.supervisor_lives, interrupted, logged=0)
    if found is not None:
        _wait_until_gone(found)
    try:
        layout.make()
    except PermissionError as error:
        raise HomeNotWritable(layout.home, error) from error
    with _interrupts() as interrupted, (layout.logs / "supervisor.log").open("ab") as log:
        logged = log.tell()
        daemon = subprocess.Popen(
            argv,
            cwd=ROOT,
            env={**os.environ, "UPLIFT_HOME": str(layout.home)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            ready = _wait_until_ready(
                layout, daemon.pid, say, lambda: daemon.poll() is None, interrupted, logged=logged
            )
        except KeyboardInterrupt:
            say("stopping again")
            _end(daemon, layout)
            raise
        daemon.returncode = 0  # it outlives us on purpose; without this Popen warns of a forgotten child
        return ready


def down(layout: Layout) -> bool:
    """Stop the stack and whatever a killed supervisor left; True if anything was running."""
    found = states.read(layout.state)
    if found is None:
        return False
    was_running = found.supervisor_lives()
    if was_running:
        with suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGTERM)
        _wait_until_gone(found)
        if found.supervisor_lives():
            os.kill(found.pid, signal.SIGKILL)
    return reap_leftovers(layout) or was_running


def reap_leftovers(layout: Layout) -> bool:
    """End the recorded processes of a supervisor that is gone; True if there were any."""
    found = states.read(layout.state)
    if found is None or (found.pid != os.getpid() and found.supervisor_lives()):
        return False
    left = [one for one in found.processes if states.lives(one.pid, one.created)]
    for one in reversed(left):
        with suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGINT if one.name == "postgres" else signal.SIGTERM)
    until = time.monotonic() + 10
    while any(states.lives(one.pid, one.created) for one in left) and time.monotonic() < until:
        time.sleep(0.05)
    for one in left:
        kill_group(one.pid)
    return bool(left)


def _wait_until_ready(
    layout: Layout,
    pid: int,
    say: Callable[[str], None],
    lives: Callable[[], bool],
    interrupted: StopFlag,
    *,
    logged: int,
) -> StackState:
    said = 0
    while True:
        alive = lives()  # before the state is read: the last word of one that ended must not be missed
        found = states.read(layout.state)
        ours = found if found is not None and found.pid == pid else None
        if ours is not None:
            for step in ours.steps[said:]:
                say(step)
            said = len(ours.steps)
            if ours.phase == "ready":
                return ours
        if not alive:
            raise StackError(_why_it_ended(layout, ours, logged))
        if interrupted.wait(0.1):
            raise KeyboardInterrupt


def _why_it_ended(layout: Layout, ours: StackState | None, logged: int) -> str:
    if ours is not None and (ours.error or ours.phase == "stopped"):
        return ours.error or "The stack was stopped while it started."
    with (layout.logs / "supervisor.log").open(errors="replace") as log:
        log.seek(logged)
        return "\n".join(log.read().splitlines()[-10:]) or "The supervisor ended without a word."


def _wait_until_gone(found: StackState) -> None:
    until = time.monotonic() + _STOP_SECONDS
    while found.supervisor_lives() and time.monotonic() < until:
        time.sleep(0.05)


def _end(daemon: subprocess.Popen[bytes], layout: Layout) -> None:
    daemon.terminate()
    try:
        daemon.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
    reap_leftovers(layout)


@contextmanager
def _interrupts() -> Iterator[StopFlag]:
    """Ctrl-C, a closed terminal and SIGTERM as a flag, so that none of them can fall between a start and its record."""
    happened = StopFlag()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: happened.set()) for number in numbers}
    try:
        yield happened
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        happened.close()
