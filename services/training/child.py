"""Supervising a child that computes: its own process group, its events, and the meaning of how it ends."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

from services.training.errors import OutOfMemory, TrainingChildDied, TrainingChildStopped, error_named
from services.training.exhaustion import MEMORY_ADVICE, killed_for_memory, says_no_memory
from services.training.order import HANDED_OVER, ChildEvent, Failed, Finished, parse_event

_POLL_SECONDS = 0.2
_STDERR_TAIL = 2000
_CHILD = "services.training.lora.run"
Event = TypeVar("Event")
Last = TypeVar("Last")
_ROOT = Path(__file__).resolve().parents[2]
"""Where `-m` finds the services, wherever the worker itself was started."""


def run_child(
    order_file: Path,
    *,
    environment: Mapping[str, str],
    on_event: Callable[[ChildEvent], None],
    wish: Callable[[], str | None],
    grace_seconds: float,
    module: str = _CHILD,
) -> Finished:
    """Train as the order says; events arrive in this thread, in order.

    `wish` is asked several times a second: "cancel" kills, any other wish has the child save and stop
    (TrainingChildStopped). Raises the named error that the child reported, OutOfMemory when the kernel killed it
    for memory, TrainingChildDied when it ended without a word. However this ends, no process is left.
    """
    return supervise(
        module,
        order_file,
        environment=environment,
        parse=parse_event,
        last=Finished,
        on_event=on_event,
        wish=wish,
        grace_seconds=grace_seconds,
    )


def supervise(
    module: str,
    order_file: Path,
    *,
    environment: Mapping[str, str],
    parse: Callable[[bytes], Event],
    last: type[Last],
    on_event: Callable[[Event], None],
    wish: Callable[[], str | None],
    grace_seconds: float,
) -> Last:
    """Run `python -m module ORDER PARENT`, whose lines `parse` reads; answers its `last` event. See `run_child`."""
    log = order_file.with_name("child.log")
    kills_before = memory_kills()
    with _started(module, order_file, environment, log) as child:
        finished = _follow(child, parse, last, on_event, wish, grace_seconds)
        status = child.wait()
    if finished is not None and status == 0:
        return finished
    if status == -signal.SIGKILL and memory_kills() > kills_before:
        raise killed_for_memory()
    words = _tail(log)
    if status == -signal.SIGABRT and says_no_memory(words):  # C++ has no memory left even to say so
        raise OutOfMemory(f"Memory ran out. {MEMORY_ADVICE}")
    raise TrainingChildDied(f"The training process ended with status {status}. Its last words:\n{words}")


def memory_kills() -> int:
    """How many processes the kernel has killed for memory on this machine since it started; 0 where it won't say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _follow(
    child: subprocess.Popen[bytes],
    parse: Callable[[bytes], Event],
    last: type[Last],
    on_event: Callable[[Event], None],
    wish: Callable[[], str | None],
    grace_seconds: float,
) -> Last | None:
    """Hand on events until the child closes its output; answers its last word."""
    events = _reader(child.stdout)
    finished: Last | None = None
    stop: tuple[str, float] | None = None
    while True:
        if stop is None and (wanted := wish()) is not None:
            stop = (wanted, time.monotonic() + grace_seconds)
            if wanted == "cancel":
                raise TrainingChildStopped(wanted, saved=False)
            _signal_group(child, signal.SIGTERM)
        if stop is not None and time.monotonic() > stop[1]:
            raise TrainingChildStopped(stop[0], saved=False)
        try:
            line = events.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            continue
        if line is None:
            break
        event = parse(line)
        if isinstance(event, Failed):
            raise error_named(event.code, event.message, event.param)
        if isinstance(event, last):
            finished = event
        on_event(event)
    if stop is not None and finished is None:
        raise TrainingChildStopped(stop[0], saved=child.wait() == HANDED_OVER)
    return finished


@contextmanager
def _started(
    module: str, order_file: Path, environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", module, str(order_file), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=dict(environment),
            cwd=_ROOT,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        _signal_group(child, signal.SIGKILL)
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _reader(stream: IO[bytes] | None) -> "queue.Queue[bytes | None]":
    """Lines of the stream, then None, read by a thread of its own so that the child never waits for us."""
    assert stream is not None
    lines: queue.Queue[bytes | None] = queue.Queue()

    def read() -> None:
        # a closed stream (ValueError) means that the supervisor has already given the child up
        with contextlib.suppress(ValueError):
            for line in stream:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, name="training-child-reader", daemon=True).start()
    return lines


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal the child and all it started; gone is as good."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError):
        return log.read_bytes()[-_STDERR_TAIL:].decode(errors="replace").strip()
    return ""
