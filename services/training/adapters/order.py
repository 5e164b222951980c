"""What the worker and the checking child say to each other: one order in a file, one verdict as a JSON line."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class CheckOrder(_Message):
    """Load `adapter_dir` (whose configuration we wrote) on the base model, on the CPU."""

    model_dir: Path
    adapter_dir: Path
    home: Path
    memory_bytes: int
    """What the child may allocate beyond what its libraries took."""


class Refusal(_Message):
    code: str
    message: str
    param: str | None = None


class Verdict(_Message):
    """The last word: a refusal, or none."""

    event: Literal["verdict"] = "verdict"
    refusal: Refusal | None = None


def parse_verdict(line: bytes) -> Verdict:
    """One line of the child's standard output."""
    return Verdict.model_validate_json(line)
