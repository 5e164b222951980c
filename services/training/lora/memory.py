"""How much memory this process has taken, and how much more there is for it: of the GPU where it computes on one."""

import resource
from contextlib import suppress
from pathlib import Path

import torch

_CONTAINER = Path("/sys/fs/cgroup")
_ACCOUNTS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Of control groups, version 2 and 1: the limit, what is used, and of that the cached files that would make room."""


def peak_bytes(device: torch.device) -> int:
    """The most that was taken at once so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # not ru_maxrss where it can be helped: that of a started process begins at its parent's
    return _numbers(Path("/proc/self/status")).get("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def taken_bytes(device: torch.device) -> int | None:
    """What is taken now; None where the system doesn't say."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _own_bytes()


def limit_bytes(device: torch.device) -> int | None:
    """The most that this process could take now: what it has and what is free, on the machine or in its container.

    None where the system doesn't say.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    own = _own_bytes()
    free = _numbers(Path("/proc/meminfo")).get("MemAvailable")
    if own is None or free is None:
        return None
    return own + min([free, *container_free(_CONTAINER)])


def _own_bytes() -> int | None:
    return _numbers(Path("/proc/self/status")).get("VmRSS")


def container_free(root: Path) -> list[int]:
    """What the container that `root` accounts for leaves free; empty without a limit."""
    found = []
    for limit, used, statistics, cached in _ACCOUNTS:
        with suppress(OSError, ValueError):  # no such version of control groups, or "max": no limit
            most, taken = int((root / limit).read_text()), int((root / used).read_text())
            lines = (line.split() for line in (root / statistics).read_text().splitlines())
            found.append(most - taken + next((int(words[1]) for words in lines if words[0] == cached), 0))
    return found


def _numbers(table: Path) -> dict[str, int]:
    """The kernel's `Name:  123 kB` lines, in bytes; empty where there are none."""
    found = {}
    with suppress(OSError):
        for line in table.read_text().splitlines():
            words = line.split()
            if words[-1:] == ["kB"]:
                found[words[0].rstrip(":")] = int(words[1]) * 1024
    return found
