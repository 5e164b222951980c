"""A machine-wide compute share: heavy workers count each other and divide the cores, so nothing oversubscribes."""

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

_SLOTS = 64
_REFRESH_SECONDS = 0.5


class ComputeShare:
    """One heavy worker's share of the cores, held from `__enter__` to `__exit__`.

    Every holder keeps an exclusive flock on one slot file under `home/run/compute`; the kernel drops it when the
    process dies, so a killed worker never leaves a stale share. Counting tries each slot's lock without waiting.
    """

    def __init__(self, home: Path, name: str, *, cores: int | None = None) -> None:
        self._folder = home / "run" / "compute"
        self._name = name
        self._cores = cores or len(os.sched_getaffinity(0))
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
        """How many threads to compute with now: cores divided by the active holders, at least 1.

        Cheap enough for every step (counted at most twice a second). Set them in the thread that runs the tensor
        code: OpenMP keeps its count per thread.
        """
        if time.monotonic() - self._counted_at > _REFRESH_SECONDS:
            self._threads = max(1, self._cores // max(1, self._holders()))
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


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
