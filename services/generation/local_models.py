"""The models that lie in the home: base models and embedders, told apart by what their folders say."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LocalModel:
    """A model folder; `created` is its age in unix seconds."""

    id: str
    kind: str
    created: int
    provenance: str


def local_models(folder: Path) -> list[LocalModel]:
    """Every model under `folder`, by id; a folder still being pulled is hidden."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if not path.name.startswith(".") and (path / "config.json").exists()]
    return [_describe(path) for path in sorted(found)]


def base_model_folder(folder: Path, name: str) -> Path | None:
    """The folder of a base model, None when there is no such model. `name` is a label, never a path."""
    path = folder / name
    if path.name != name or name.startswith("."):
        return None
    try:
        found = (path / "config.json").exists() and _describe(path).kind == "base"
    except OSError:  # longer than any file's name
        return None
    return path if found else None


def _describe(path: Path) -> LocalModel:
    """Every chat asks for its model, so what a folder said is remembered until its config.json is another."""
    return _description(path, (path / "config.json").stat().st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _description(path: Path, _version: int) -> LocalModel:
    facts = path / "uplift.json"
    described = json.loads(facts.read_text()) if facts.exists() else {}
    kind = described.get("kind") or ("embedder" if (path / "modules.json").exists() else "base")
    created = int((path / "config.json").stat().st_mtime)
    return LocalModel(id=path.name, kind=kind, created=created, provenance=described.get("provenance", ""))
