"""What the last bits of a run depend on beside its recipe and data: recorded with every state, compared on resuming.

Where all of it is equal, a resumed run repeats the unbroken one bit by bit on a CPU. Where something differs, sums are
added up in another order: each loss moves by rounding, and later losses by what training makes of that.
`make bench-resume` measures how much.
"""

import platform
from collections.abc import Mapping
from pathlib import Path

import torch


def surroundings(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Names and values, as text: thread count, torch's build, processor and its instructions, device, base weights."""
    return {
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "cpu": f"{_processor()} ({torch.backends.cpu.get_cpu_capability()})",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "precision": str(dtype).removeprefix("torch."),
    }


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """What is not as it was, as (then, now); a state of before this was recorded differs in nothing we know of."""
    return {name: (then[name], value) for name, value in now.items() if name in then and then[name] != value}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
