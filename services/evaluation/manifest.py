"""What a result stands on: code commit, package versions, model hashes, machine."""

import hashlib
import json
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from services.evaluation.settings import EvaluationSettings
from shared.settings import Settings

_PACKAGES = ("torch", "transformers", "peft", "sentence-transformers", "numpy", "scipy", "sacrebleu", "sqlalchemy")
_SOURCE = Path(__file__).resolve().parents[2]


def code(settings: Settings) -> dict[str, Any]:
    """`commit` and whether the checkout has changes of its own (`dirty`); "unknown" where neither names it."""
    named = settings.commit if isinstance(settings, EvaluationSettings) else ""
    if named:
        return {"commit": named, "dirty": False}
    commit = _git("rev-parse", "HEAD")
    return {"commit": commit or "unknown", "dirty": bool(_git("status", "--porcelain"))}


def versions() -> dict[str, str]:
    """Python and the packages that touch a number in the report."""
    found = {"python": platform.python_version(), "uplift": _version("uplift")}
    return found | {name: _version(name) for name in _PACKAGES}


def machine() -> dict[str, Any]:
    """Where it ran: timings mean nothing without it."""
    return {
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
    }


def model(settings: Settings, model_id: str) -> dict[str, Any]:
    """A model's provenance and the hash of its weights, as far as this machine has its folder."""
    folder = settings.models_dir / model_id
    facts = folder / "uplift.json"
    known: dict[str, Any] = json.loads(facts.read_text()) if facts.exists() else {}
    weights = sorted(folder.glob("*.safetensors"))
    sha256 = _sha256(tuple((path, path.stat().st_mtime_ns) for path in weights)) if weights else "unknown"
    return {"id": model_id, "weights_sha256": sha256, **{k: known[k] for k in ("source", "provenance") if k in known}}


@cache
def _sha256(files: tuple[tuple[Path, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, _changed in files:
        with path.open("rb") as content:
            while chunk := content.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _git(*arguments: str) -> str:
    try:
        ran = subprocess.run(["git", *arguments], cwd=_SOURCE, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
