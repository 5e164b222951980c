"""Getting the user's own files into the platform: examples, a folder of documents, and the waiting for both."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.cli.client import POLL_SECONDS, Client, JobFailed

DOCUMENT_SUFFIXES = {".md", ".txt", ".markdown", ".html"}
_UPLOADS_AT_ONCE = 4
Report = Callable[[float, float, float | None], None]
"""Called with what is done, the total, and the seconds left if somebody knows them."""


class NothingToUpload(Exception):
    """The folder holds no document we can read; the message says what we looked for."""


@dataclass(frozen=True)
class Corpus:
    """A vector store that is ready, and how many documents went in."""

    id: str
    documents: int


def find_documents(folder: Path) -> list[Path]:
    """The text and Markdown files under `folder`, in a stable order."""
    if folder.is_file():
        return [folder]
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in DOCUMENT_SUFFIXES)
    if not found:
        kinds = ", ".join(sorted(DOCUMENT_SUFFIXES))
        raise NothingToUpload(f"{folder} holds no documents: we look for {kinds}, in subfolders too.")
    return found


def upload_documents(client: Client, folder: Path, report: Report) -> list[str]:
    """Upload each document under its path within the folder; examples name their gold document by it."""
    paths = find_documents(folder)
    root = folder if folder.is_dir() else folder.parent

    def one(path: Path) -> str:
        return client.upload(path, name=path.relative_to(root).as_posix())

    ids: list[str] = []
    with ThreadPoolExecutor(_UPLOADS_AT_ONCE) as pool:
        for file_id in pool.map(one, paths):
            ids.append(file_id)
            report(len(ids), len(paths), None)
    return ids


def index(client: Client, name: str, file_ids: list[str], report: Report) -> Corpus:
    """Make a vector store of the files and wait until it is searchable."""
    store = client.post("vector_stores", {"name": name, "file_ids": file_ids})
    while store["status"] == "in_progress":
        counts = store["file_counts"]
        report(counts["total"] - counts["in_progress"], counts["total"], None)
        time.sleep(POLL_SECONDS)
        store = client.get(f"vector_stores/{store['id']}")
    counts = store["file_counts"]
    if store["status"] != "completed" or counts["completed"] == 0:
        raise JobFailed(f"Indexing failed: {counts}. `uplift jobs list --status failed` shows why.")
    report(counts["total"], counts["total"], None)
    return Corpus(id=store["id"], documents=counts["completed"])


def import_dataset(client: Client, examples: Path, *, name: str, seed: int, report: Report) -> dict[str, Any]:
    """Upload the examples and wait until they are cleaned, split and frozen."""
    file_id = client.upload(examples, name=examples.name)
    dataset: dict[str, Any] = client.post("datasets", {"name": name, "file": file_id, "seed": seed})
    while dataset["status"] == "pending":
        report(0, 1, None)
        time.sleep(POLL_SECONDS)
        dataset = client.get(f"datasets/{dataset['id']}")
    if dataset["status"] != "ready":
        error = dataset.get("error") or {}
        raise JobFailed(f"{examples.name}: {error.get('message', 'the import failed')}")
    report(1, 1, 0)
    return dataset
