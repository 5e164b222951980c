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
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

from services.training.errors import TrainingChildDied, TrainingChildStopped, error_named
from services.training.exhaustion import TRAINING, Work, killed_for_memory, out_of_memory, says_no_memory
from services.training.order import HANDED_OVER, MEETING, ChildEvent, Failed, Finished, parse_event
from services.training.settings import rank_environment

_POLL_SECONDS = 0.2
_FAILS_TOGETHER_SECONDS = 5.0
"""All processes of a training meet an error of the data or the recipe; within this they have ended and said so."""
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
    processes: int = 1,
) -> Finished:
    """Train as the order says, in so many processes together; events arrive in this thread, in order.

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
        processes=processes,
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
    processes: int = 1,
    work: Work = TRAINING,
) -> Last:
    """Run `python -m module ORDER PARENT`, whose lines `parse` reads; answers its `last` event. See `run_child`.

    `work` is what the child is said to do where it ran out of memory.
    """
    log = order_file.with_name("child.log")
    kills_before = memory_kills()
    with _started(module, order_file, environment, log, processes) as ranks:
        finished = _follow(ranks, parse, last, on_event, wish, grace_seconds)
        statuses = [child.wait() for child in ranks.children]
        ended_themselves = [child.returncode for child in ranks.died or ranks.children]
    if finished is not None and statuses[0] == 0:
        return finished
    if -signal.SIGKILL in ended_themselves and memory_kills() > kills_before:
        raise killed_for_memory(work)
    words = _tail(log)
    if -signal.SIGABRT in statuses and says_no_memory(words):  # C++ has no memory left even to say so
        raise out_of_memory(work)
    status = next((status for status in statuses if status not in (0, -signal.SIGKILL)), statuses[0])
    raise TrainingChildDied(f"The process of {work.name} ended with status {status}. Its last words:\n{words}")


def memory_kills() -> int:
    """How many processes the kernel has killed for memory on this machine since it started; 0 where it won't say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


@dataclass(frozen=True)
class _Ranks:
    """The processes of one training, in the first one's process group, and what they all write to."""

    children: list[subprocess.Popen[bytes]]
    output: IO[bytes]
    died: list[subprocess.Popen[bytes]] = field(default_factory=list)
    """Who had ended when the rest was killed: only their statuses say what went wrong."""

    def kill_the_rest(self) -> None:
        self.died.extend(child for child in self.children if child.poll() is not None)
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Signal them and all they started; gone is as good."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.children[0].pid, number)

    def one_was_killed(self) -> bool:
        return any((child.poll() or 0) < 0 for child in self.children)

    def one_failed(self) -> bool:
        """By itself, or with all the others: then the first is about to say why."""
        return any(child.poll() not in (None, 0, HANDED_OVER) for child in self.children)


def _follow(
    ranks: _Ranks,
    parse: Callable[[bytes], Event],
    last: type[Last],
    on_event: Callable[[Event], None],
    wish: Callable[[], str | None],
    grace_seconds: float,
) -> Last | None:
    """Hand on events until the output is closed; answers the last word."""
    events = _reader(ranks.output)
    finished: Last | None = None
    stop: tuple[str, float] | None = None
    failed_at: float | None = None
    while True:
        if stop is None and (wanted := wish()) is not None:
            stop = (wanted, time.monotonic() + grace_seconds)
            if wanted == "cancel":
                raise TrainingChildStopped(wanted, saved=False)
            ranks.signal(signal.SIGTERM)
        if stop is not None and time.monotonic() > stop[1]:
            raise TrainingChildStopped(stop[0], saved=False)
        try:
            line = events.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            if failed_at is None and ranks.one_failed():
                failed_at = time.monotonic()
            alone = failed_at is not None and time.monotonic() - failed_at > _FAILS_TOGETHER_SECONDS
            if alone or ranks.one_was_killed():
                ranks.kill_the_rest()  # they would wait for it
                break
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
        raise TrainingChildStopped(stop[0], saved=ranks.children[0].wait() == HANDED_OVER)
    return finished


@contextmanager
def _started(
    module: str, order_file: Path, environment: Mapping[str, str], log: Path, processes: int
) -> Iterator[_Ranks]:
    order_file.with_name(MEETING).unlink(missing_ok=True)
    read, write = os.pipe()
    ranks = _Ranks([], os.fdopen(read, "rb"))
    try:
        with os.fdopen(write, "wb") as output, log.open("wb") as errors:
            for rank in range(processes):
                child = subprocess.Popen(
                    [sys.executable, "-m", module, str(order_file), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    env=dict(environment) | rank_environment(rank, processes),
                    cwd=_ROOT,
                    process_group=ranks.children[0].pid if ranks.children else 0,
                )
                ranks.children.append(child)
        yield ranks
    finally:
        if ranks.children:
            ranks.signal(signal.SIGKILL)
        for child in ranks.children:
            child.wait()
        ranks.output.close()


def _reader(stream: IO[bytes]) -> "queue.Queue[bytes | None]":
    """Lines of the stream, then None, read by a thread of its own so that the child never waits for us."""
    lines: queue.Queue[bytes | None] = queue.Queue()

    def read() -> None:
        # a closed stream (ValueError) means that the supervisor has already given the child up
        with contextlib.suppress(ValueError):
            for line in stream:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, name="training-child-reader", daemon=True).start()
    return lines


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError):
        return log.read_bytes()[-_STDERR_TAIL:].decode(errors="replace").strip()
    return ""
