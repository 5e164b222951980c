"""Documents as rows of continued pretraining: whole documents held out for validation, the rest learned."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from services.training.domain import Document, even_windows


@dataclass(frozen=True)
class Written:
    """What was written to a file: `windows` is how many examples the documents are cut into."""

    documents: int
    windows: int
    sha256: str


def write_documents(path: Path, documents: Iterable[Document], model_dir: Path, max_length: int) -> Written:
    """One JSON line a document."""
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    digest, count, windows = hashlib.sha256(), 0, 0
    with path.open("wb") as rows:
        for document in documents:
            line = _line(document)
            digest.update(line)
            rows.write(line)
            count += 1
            length = len(tokenizer.encode(document.text, add_special_tokens=False).ids) + 1
            windows += len(even_windows(length, max_length - 1))
    return Written(count, windows, digest.hexdigest())


def hold_out(everything: Path, share: float, seed: int) -> tuple[set[str], int, int]:
    """Which groups of the documents to validate on, how many documents they hold, and how many there are.

    Groups are taken in an order that the seed decides, each one that still fits into `share` of all characters; where
    none fits, the smallest. A single group is all learned from. Equal seeds and documents hold out the same.
    """
    sizes: dict[str, tuple[int, int]] = {}  # group → (documents, characters)
    for document in read_documents(everything):
        documents, characters = sizes.get(document.group, (0, 0))
        sizes[document.group] = documents + 1, characters + len(document.text)
    total = sum(documents for documents, _ in sizes.values())
    if share == 0 or len(sizes) < 2:
        return set(), 0, total
    room = share * sum(characters for _, characters in sizes.values())
    held: set[str] = set()
    for group in sorted(sizes, key=lambda name: _drawn(name, seed)):
        if sizes[group][1] <= room:
            held.add(group)
            room -= sizes[group][1]
    held = held or {min(sizes, key=lambda name: (sizes[name][1], name))}
    return held, sum(sizes[group][0] for group in held), total


def group_of(text: str) -> str:
    """A name that equal texts share, however their lines are broken."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def spool(path: Path, documents: Iterable[Document]) -> None:
    """All the documents in one file, to be read more than once."""
    with path.open("wb") as rows:
        rows.writelines(map(_line, documents))


def read_documents(path: Path) -> Iterator[Document]:
    """What `spool` or `write_documents` wrote."""
    with path.open("rb") as rows:
        for row in rows:
            yield Document(**json.loads(row))


def _line(document: Document) -> bytes:
    return json.dumps({"text": document.text, "group": document.group}, ensure_ascii=False).encode() + b"\n"


def _drawn(group: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {group}".encode()).hexdigest()
