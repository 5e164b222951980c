"""Tokenised rows kept by hash: a second run or a trial over the same rows, tokenizer and limit does not tokenise again.

An entry is named by the hash of all that decides its content, so it is never wrong and never rewritten with other
content; it appears whole, by a rename, and two processes that make the same one at once both leave it right.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import tokenizers
import transformers
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from services.training.lora import examples, windows
from services.training.lora.packing import Group, TokenExample

KEPT_DAYS = 7
"""An entry that no run has used for so long is removed: what it was made of may have been deleted since."""
_SUFFIX = ".safetensors"

_CODE = (Path(examples.__file__), Path(windows.__file__))

Tokenised = tuple[list[Group], list[int]]
"""Groups that fit, and the lengths of the rows that were left out."""


def cached(folder: Path, rows: Path, model_dir: Path, max_length: int, make: Callable[[], Tokenised]) -> Tokenised:
    """What `make` answers, kept in `folder`; an entry that cannot be read is made again. Errors are not kept."""
    _remove_unused(folder)
    path = folder / (_key(rows, model_dir, max_length) + _SUFFIX)
    kept = _read(path)
    if kept is not None:
        return kept
    made = make()
    _write(path, made)
    return made


def _key(rows: Path, model_dir: Path, max_length: int) -> str:
    """Rows, everything of the model that tokenises, the limit, and the code that puts them together."""
    parts = [path.read_bytes() for path in (rows, *_CODE, *sorted(_tokenizing(model_dir)))]
    digests = [hashlib.sha256(part).hexdigest() for part in parts]
    versions = [transformers.__version__, tokenizers.__version__, str(max_length)]
    if any(b"strftime_now" in part for part in parts[1 + len(_CODE) :]):  # a chat template that tells the date
        versions.append(str(datetime.now().astimezone().date()))
    return hashlib.sha256(" ".join([*digests, *versions]).encode()).hexdigest()


def _tokenizing(model_dir: Path) -> Iterator[Path]:
    """The folder's files but for weights and what is said of the model itself."""
    for path in model_dir.iterdir():
        if path.is_file() and path.suffix in {".json", ".jinja", ".txt", ".model"}:
            yield path


def _read(path: Path) -> Tokenised | None:
    try:
        kept = load_file(path)
        groups = list(_groups(kept))
    except FileNotFoundError:
        return None
    except (SafetensorError, KeyError, ValueError):  # torn or damaged from outside; it is made anew
        return None
    os.utime(path)
    return groups, [int(length) for length in kept["left_out"]]


def _write(path: Path, made: Tokenised) -> None:
    groups, left_out = made
    flat = [example for group in groups for example in group]
    tensors = {
        "tokens": _integers([token for example in flat for token in (*example.prompt, *example.completion)]),
        "prompts": _integers([len(example.prompt) for example in flat]),
        "completions": _integers([len(example.completion) for example in flat]),
        "groups": _integers([len(group) for group in groups]),
        "left_out": _integers(left_out),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unnamed = path.with_name(f"{uuid4().hex}.part")
    try:
        save_file(tensors, unnamed)
        unnamed.replace(path)
    finally:
        unnamed.unlink(missing_ok=True)


def _groups(kept: dict[str, Any]) -> Iterator[Group]:
    tokens = kept["tokens"].tolist()
    lengths = np.stack([kept["prompts"], kept["completions"]], axis=1).ravel()  # prompt, completion, prompt, …
    pieces = [tuple(tokens[end - length : end]) for length, end in zip(lengths, accumulate(lengths), strict=True)]
    single = iter([TokenExample(p, c) for p, c in zip(pieces[::2], pieces[1::2], strict=True)])
    for size in kept["groups"].tolist():
        yield tuple(next(single) for _ in range(size))


def _remove_unused(folder: Path) -> None:
    """Entries too long unused, and what a killed process left half written."""
    oldest = time.time() - KEPT_DAYS * 86400
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            if path.stat().st_mtime < oldest:
                path.unlink()
        except FileNotFoundError:  # another process was quicker
            continue


def _integers(values: Sequence[int]) -> npt.NDArray[np.int32]:
    return np.asarray(values, dtype=np.int32)
