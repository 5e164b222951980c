"""Documents as token examples of continued pretraining: even windows in which every token is learned."""

import json
from pathlib import Path
from typing import Any

from services.training.domain import even_windows
from services.training.lora.packing import Group, TokenExample

_END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "<|end▁of▁sentence|>")
"""What parted documents in pretraining, where the end-of-sequence token of a model tuned for chat ends a turn."""


def holds_texts(path: Path) -> bool:
    """Whether the rows of a file are documents, not chats."""
    with path.open(encoding="utf-8") as rows:
        return "text" in json.loads(next(rows, "{}"))


def read_texts(path: Path) -> list[str]:
    """The documents of a JSON-lines file that `services/training/corpus.py` wrote."""
    with path.open(encoding="utf-8") as rows:
        return [json.loads(row)["text"] for row in rows]


def windows_of(tokenizer: Any, texts: list[str], max_length: int) -> list[Group]:
    """Windows of at most `max_length` tokens, each with one token before it as its only prompt.

    A document's tokens and an end-of-text token after them are each the target of one window. What stands before a
    document's first token is what begins a text for this tokenizer, or else another document's end.
    """
    if not texts:
        return []
    end = end_of_text(tokenizer)
    start = next(iter(tokenizer("")["input_ids"]), end)
    groups: list[Group] = []
    for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
        tokens, before = (*ids, end), (start, *ids)
        for first, last in even_windows(len(tokens), max_length - 1):
            groups.append((TokenExample((before[first],), tokens[first:last]),))
    return groups


def end_of_text(tokenizer: Any) -> int:
    """The token that ends a document."""
    known = tokenizer.get_vocab()
    named = next((known[name] for name in _END_OF_TEXT if name in known), None)
    end: int = tokenizer.eos_token_id if named is None else named
    return end
