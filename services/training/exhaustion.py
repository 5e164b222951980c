"""Naming what ran out, memory or disk, however it was put; pure, so that worker and child tell it alike."""

import errno
from dataclasses import dataclass

from services.training.errors import DiskFull, OutOfMemory
from shared.errors import UpliftError

_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc", "can't start new thread")
"""As torch, the kernel, CUDA, C++ and the interpreter put it (a thread needs a stack)."""


@dataclass(frozen=True)
class Work:
    """What ran out of something, and what helps it."""

    name: str
    large_files: str
    less_memory: str
    once_there_is_room: str


TRAINING = Work(
    "training",
    "a checkpoint or the adapter",
    "Lower micro_batch_tokens, max_length or rank in the recipe, set gradient_checkpointing, tune less (lora in place "
    "of full, qlora in place of lora), or stop other work on this machine.",
    "the run goes on from its last checkpoint",
)
EXPORT = Work(
    "the export",
    "the model",
    "The whole model is held in float32 to merge it: stop other work on this machine, or ask for the format adapter, "
    "which loads no model.",
    "the export starts anew",
)


def name_exhaustion(error: BaseException, work: Work = TRAINING) -> UpliftError | None:
    """The named error when memory or disk ran out; None for a defect, which must keep its trace."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return _disk_full(work, str(error.filename or "its files"))
    text = str(error)
    if "No space left on device" in text:  # safetensors reports it as text
        return _disk_full(work, work.large_files)
    no_memory = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if no_memory or says_no_memory(text):
        return out_of_memory(work)
    return None


def says_no_memory(words: str) -> bool:
    """Whether an error's text, or the last words of a process that aborted, tell of a lack of memory."""
    lowered = words.lower()
    return any(sign in lowered for sign in _NO_MEMORY)


def out_of_memory(work: Work) -> OutOfMemory:
    return OutOfMemory(f"Memory ran out. {work.less_memory}")


def killed_for_memory(work: Work) -> OutOfMemory:
    return OutOfMemory(f"The kernel killed {work.name} because the machine ran out of memory. {work.less_memory}")


def _disk_full(work: Work, what: str) -> DiskFull:
    return DiskFull(f"The disk ran full while {work.name} wrote {what}. Free some space; {work.once_there_is_room}.")
