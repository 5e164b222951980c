"""Naming what ran out, memory or disk, however it was put; pure, so that worker and child tell it alike."""

import errno

from services.training.errors import DiskFull, OutOfMemory
from shared.errors import UpliftError

_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc", "can't start new thread")
"""As torch, the kernel, CUDA, C++ and the interpreter put it (a thread needs a stack)."""
MEMORY_ADVICE = (
    "Lower micro_batch_tokens, max_length or rank in the recipe, set gradient_checkpointing, or stop other work on "
    "this machine."
)


def name_exhaustion(error: BaseException) -> UpliftError | None:
    """The named error when memory or disk ran out; None for a defect, which must keep its trace."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return _disk_full(str(error.filename or "its files"))
    text = str(error)
    if "No space left on device" in text:  # safetensors reports it as text
        return _disk_full("a checkpoint or the adapter")
    no_memory = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if no_memory or says_no_memory(text):
        return OutOfMemory(f"Memory ran out. {MEMORY_ADVICE}")
    return None


def says_no_memory(words: str) -> bool:
    """Whether an error's text, or the last words of a process that aborted, tell of a lack of memory."""
    lowered = words.lower()
    return any(sign in lowered for sign in _NO_MEMORY)


def killed_for_memory() -> OutOfMemory:
    return OutOfMemory(f"The kernel killed training because the machine ran out of memory. {MEMORY_ADVICE}")


def _disk_full(what: str) -> DiskFull:
    return DiskFull(
        f"The disk ran full while training wrote {what}. Free some space; the run goes on from its last checkpoint."
    )
