"""Starting and stopping the supervisor from outside: what `uplift up` and `uplift down` do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from deploy.local import state as states
from deploy.local.child import kill_group
from deploy.local.errors import StackError
from deploy.local.layout import Layout
from deploy.local.state import StackState

ROOT = Path(__file__).resolve().parents[2]
_STOP_SECONDS = 120


def running(layout: Layout) -> StackState | None:
    """The live supervisor's state, or None."""
    found = states.read(layout.state)
    return found if found is not None and found.supervisor_lives() else None


def up(layout: Layout, say: Callable[[str], None]) -> StackState:
    """Start the stack and wait until it is ready; `say` hears each step. Interrupted, it leaves nothing running."""
    layout.make()
    log = layout.logs / "supervisor.log"
    with log.open("ab") as sink:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "deploy.local.supervisor"],
            cwd=ROOT,
            env={**os.environ, "UPLIFT_HOME": str(layout.home)},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        return _wait_until_ready(layout, daemon, say)
    except KeyboardInterrupt:
        say("stopping again")
        daemon.terminate()
        daemon.wait(_STOP_SECONDS)
        raise


def down(layout: Layout) -> bool:
    """Stop the stack and whatever a killed supervisor left; True if anything was running."""
    found = states.read(layout.state)
    if found is None:
        return False
    was_running = found.supervisor_lives()
    if was_running:
        os.kill(found.pid, signal.SIGTERM)
        until = time.monotonic() + _STOP_SECONDS
        while found.supervisor_lives() and time.monotonic() < until:
            time.sleep(0.05)
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


def _wait_until_ready(layout: Layout, daemon: subprocess.Popen[bytes], say: Callable[[str], None]) -> StackState:
    said = ""
    while True:
        found = states.read(layout.state)
        ours = found if found is not None and found.pid == daemon.pid else None
        if ours is not None and ours.phase == "ready":
            return ours
        if ours is not None and ours.step not in {"", said}:
            said = ours.step
            say(said)
        if daemon.poll() is not None:
            reason = ours.error if ours is not None and ours.error else _log_end(layout)
            raise StackError(reason)
        time.sleep(0.1)


def _log_end(layout: Layout) -> str:
    lines = (layout.logs / "supervisor.log").read_text(errors="replace").splitlines()
    return "\n".join(lines[-10:]) or "The supervisor ended without a word."
