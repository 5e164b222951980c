"""Folders that are whole or not there: a temporary folder, fsync, a manifest with hashes last, one rename.

One folder a step under a root; only some of them stay. A folder that is dropped is renamed first, so that whoever
reads one and finds it still there afterwards has read all of it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from safetensors import SafetensorError

_MANIFEST = "manifest.json"
_HIDDEN = (".partial-", ".dropped-")


def write(
    root: Path,
    step: int,
    fill: Callable[[Path], None],
    *,
    keep: Callable[[list[int]], Collection[int]],
    made_with: Mapping[str, str] | None = None,
) -> Path:
    """Have `fill` write the step's files, make them durable, show them under their name at once, drop other folders.

    `keep` answers which of the steps stay, newest first. `made_with` goes into the manifest as it is.
    """
    root.mkdir(parents=True, exist_ok=True)
    target = root / f"step-{step:08}"
    if target.exists():  # an unverifiable leftover, or of a run that went further than it could resume from
        _drop(target)
    partial = root / f"{_HIDDEN[0]}{step:08}-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _fill_durably(partial, fill, step, made_with or {})
    except (OSError, SafetensorError):
        shutil.rmtree(partial, ignore_errors=True)  # a full disk gets its room back
        raise
    partial.rename(target)
    _flush(root)
    folders = {step_of(folder): folder for folder in newest_first(root)}
    for old in folders.keys() - set(keep(list(folders))):
        _drop(folders[old])
    for prefix in _HIDDEN:
        for leftover in root.glob(f"{prefix}*"):
            shutil.rmtree(leftover)
    return target


def _fill_durably(partial: Path, fill: Callable[[Path], None], step: int, made_with: Mapping[str, str]) -> None:
    fill(partial)
    files = sorted(partial.iterdir())
    for path in files:
        _flush(path)
    hashes = {path.name: _sha256(path) for path in files}
    manifest = {"step": step, "made_with": dict(made_with), "sha256": hashes}
    (partial / _MANIFEST).write_text(json.dumps(manifest))
    _flush(partial / _MANIFEST)
    _flush(partial)


def newest_first(root: Path) -> list[Path]:
    """The folders under the root, whole or not."""
    return sorted(root.glob("step-*"), reverse=True)


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def verifies(folder: Path) -> bool:
    """Whether every file that the manifest names is there with its hash."""
    try:
        expected = json.loads((folder / _MANIFEST).read_text())["sha256"]
        return bool(expected) and all(_sha256(folder / name) == digest for name, digest in expected.items())
    except (OSError, ValueError, KeyError):
        return False


def made_with(folder: Path) -> dict[str, str]:
    """What the manifest of a folder that verifies says it was made with."""
    noted: dict[str, str] = json.loads((folder / _MANIFEST).read_text()).get("made_with", {})
    return noted


def _drop(folder: Path) -> None:
    dropped = folder.with_name(f"{_HIDDEN[1]}{folder.name}-{os.getpid()}")
    folder.rename(dropped)
    shutil.rmtree(dropped)


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
