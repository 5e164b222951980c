"""A compute share: heavy workers count each other, look at what else runs, and use what is left of the cores."""

import fcntl
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

_SLOTS = 64
_REFRESH_SECONDS = 0.5
_LOOK_BACK_SECONDS = 1.0
_NEGLIGIBLE_CORES = 0.25
"""What others may use before a core is left to them: a thread that shares its core holds up all that wait for it."""


class ComputeShare:
    """One heavy worker's share of the cores, held from `__enter__` to `__exit__`.

    Every holder keeps an exclusive flock on one slot file under `home/run/compute`; the kernel drops it when the
    process dies, so a killed worker never leaves a stale share. Counting tries each slot's lock without waiting.

    What else runs on the machine is seen by its use of the cores. So the count changes while a process computes, and
    with it the last bits of sums; `fixed` threads (no more than there are cores) are for results equal to the bit.
    """

    def __init__(self, home: Path, name: str, *, cores: int | None = None, fixed: int | None = None) -> None:
        self._folder = home / "run" / "compute"
        self._name = name
        self._cores = cores or len(os.sched_getaffinity(0))
        self._fixed = fixed and min(fixed, self._cores)
        self._others = OtherLoad()
        self._descriptor: int | None = None
        self._counted_at = 0.0
        self._threads = 1

    def __enter__(self) -> "ComputeShare":
        self._folder.mkdir(parents=True, exist_ok=True)
        for slot in range(_SLOTS):
            descriptor = os.open(self._folder / f"slot-{slot:02}", os.O_RDWR | os.O_CREAT, 0o600)
            if _try_lock(descriptor):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{self._name} {os.getpid()}\n".encode())
                self._descriptor = descriptor
                return self
            os.close(descriptor)
        raise RuntimeError(f"all {_SLOTS} compute slots of this machine are taken; look at {self._folder}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def threads(self) -> int:
        """How many threads to compute with now: our part of the cores, less those that others keep busy, at least 1.

        Cheap enough for every step (counted at most twice a second). Set them in the thread that runs the tensor
        code: OpenMP keeps its count per thread.
        """
        if self._fixed is not None:
            return self._fixed
        if time.monotonic() - self._counted_at > _REFRESH_SECONDS:
            left = self._cores - math.ceil(self._others.cores() - _NEGLIGIBLE_CORES)
            self._threads = max(1, min(left, self._cores // max(1, self._holders())))
            self._counted_at = time.monotonic()
        return self._threads

    def _holders(self) -> int:
        held = 0
        for path in sorted(self._folder.glob("slot-*")):
            descriptor = os.open(path, os.O_RDWR)
            try:
                if not _try_lock(descriptor):
                    held += 1
            finally:
                os.close(descriptor)
        return held


class OtherLoad:
    """How many cores everybody else keeps busy: other platforms on this machine, and whatever runs beside them."""

    def __init__(self) -> None:
        self._last = _Clocks.read()
        self._cores = 0.0

    def cores(self) -> float:
        """Busy cores less our own use, a mean over the last second or more; 0 until a second has passed."""
        now = _Clocks.read()
        seconds = now.wall - self._last.wall
        if seconds >= _LOOK_BACK_SECONDS:
            busy, own = now.busy - self._last.busy, now.own - self._last.own
            self._cores = max(0.0, (busy - own) / seconds)
            self._last = now
        return self._cores


@dataclass(frozen=True)
class _Clocks:
    """Seconds: of the wall, that the cores we may use were busy, that this process used."""

    wall: float
    busy: float
    own: float

    @classmethod
    def read(cls) -> "_Clocks":
        ours, cores = os.sched_getaffinity(0), psutil.cpu_times(percpu=True)
        busy = sum(
            core.user + core.nice + core.system + core.irq + core.softirq + core.steal
            for number, core in enumerate(cores)
            if number in ours
        )
        return cls(time.monotonic(), busy, time.process_time())


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
