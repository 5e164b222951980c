"""Checkpoints that are whole or not there: a temporary folder, fsync, a manifest with hashes last, one rename.

Tensors are safetensors, all else JSON: reading a checkpoint runs no code.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

_MANIFEST = "manifest.json"
_KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """Named groups of tensors (adapter, optimiser, …) and the run's plain state."""

    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save(root: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, make it durable, show it under its name at once, drop all but the last two."""
    root.mkdir(parents=True, exist_ok=True)
    target = root / f"step-{step:08}"
    if target.exists():  # an unverifiable leftover: a verified one would have been resumed
        shutil.rmtree(target)
    partial = root / f".partial-{step:08}-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name, group in checkpoint.tensors.items():
        save_file({key: value.contiguous() for key, value in group.items()}, partial / f"{name}.safetensors")
    (partial / "state.json").write_text(json.dumps(checkpoint.state))
    files = sorted(partial.iterdir())
    for path in files:
        _flush(path)
    manifest = {"step": step, "sha256": {path.name: _sha256(path) for path in files}}
    (partial / _MANIFEST).write_text(json.dumps(manifest))
    _flush(partial / _MANIFEST)
    _flush(partial)
    partial.rename(target)
    _flush(root)
    _drop_old(root)
    return target


def load_newest(root: Path) -> Checkpoint | None:
    """The newest checkpoint whose files match its manifest; torn ones are passed over."""
    for folder in _newest_first(root):
        if verifies(folder):
            tensors = {path.stem: load_file(path) for path in folder.glob("*.safetensors")}
            return Checkpoint(tensors, json.loads((folder / "state.json").read_text()))
    return None


def verifies(folder: Path) -> bool:
    """Whether every file that the manifest names is there with its hash."""
    try:
        expected = json.loads((folder / _MANIFEST).read_text())["sha256"]
        return bool(expected) and all(_sha256(folder / name) == digest for name, digest in expected.items())
    except (OSError, ValueError, KeyError):
        return False


def _newest_first(root: Path) -> list[Path]:
    return sorted(root.glob("step-*"), reverse=True)


def _drop_old(root: Path) -> None:
    for folder in _newest_first(root)[_KEEP:]:
        shutil.rmtree(folder)
    for leftover in root.glob(".partial-*"):
        shutil.rmtree(leftover)


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
