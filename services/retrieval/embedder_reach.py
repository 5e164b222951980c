"""How many tokens an embedder reads, told by its folder: the door refuses longer passages, and loads no model."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.retrieval.errors import ChunksTooLong

_OF_TWO_TOKENS = {"BertProcessing", "RobertaProcessing"}
"""They put one token before the text and one behind it, and list neither."""


def reach(models_dir: Path, embedder: str) -> int | None:
    """What `Embedder.most_tokens` of this embedder is; None where it is not here or its folder does not say."""
    tokenizer = models_dir / embedder / "tokenizer.json"
    try:
        return _told(tokenizer, tokenizer.stat().st_mtime_ns)
    except (OSError, ValueError):  # no such folder, or no JSON in it
        return None


def refuse_unread(sizes: Mapping[str, int] | None, models_dir: Path, embedder: str, *, where: str = "") -> None:
    """Raise ChunksTooLong for passages {most, overlap} beyond the embedder's reach; `where` as in `ToAttach`."""
    reads = reach(models_dir, embedder)
    if sizes is not None and reads is not None and sizes["most"] > reads:
        raise ChunksTooLong.of(sizes["most"], embedder, reads, where=where)


@functools.lru_cache(maxsize=32)
def _told(tokenizer: Path, _version: int) -> int | None:
    """A tokenizer's file has half a megabyte, so it is read once."""
    longest = _longest(tokenizer.parent)
    return None if longest is None else longest - _special_tokens(_read(tokenizer).get("post_processor"))


def _longest(folder: Path) -> int | None:
    """Tokens with the special ones, as sentence-transformers finds them: its own limit, else the model's least."""
    own: int | None = _read(folder / "sentence_bert_config.json").get("max_seq_length")
    if own is not None:
        return own
    told = [
        _read(folder / "tokenizer_config.json").get("model_max_length"),
        _read(folder / "config.json").get("max_position_embeddings"),
    ]
    return min((limit for limit in told if limit is not None and limit > 0), default=None)


def _special_tokens(step: Mapping[str, Any] | None) -> int:
    """How many tokens this step of a tokenizer adds to a text."""
    if step is None:
        return 0
    kind = step["type"]
    if kind == "Sequence":
        return sum(_special_tokens(one) for one in step["processors"])
    if kind == "TemplateProcessing":
        names = [part["SpecialToken"]["id"] for part in step["single"] if "SpecialToken" in part]
        return sum(len(step["special_tokens"][name]["ids"]) for name in names)
    return 2 if kind in _OF_TWO_TOKENS else 0


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found
