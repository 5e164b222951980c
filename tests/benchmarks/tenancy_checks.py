"""Prints what row-level security costs an exact search: the tenant read once a row, and once a query.

Run: .venv/bin/python -m tests.benchmarks.tenancy_checks [--passages 50000] [--queries 10]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from deploy.local.engines import EmbeddedEngines
from migrations.rls import TENANT
from services.gateway.bootstrap import found_project
from services.retrieval.document_rows import Indexed, refresh_statistics, replace_documents
from services.retrieval.embedder import Vectors
from services.retrieval.passages import Chunk
from services.retrieval.repository import Attachment, SourceFile, attach
from services.retrieval.search import search
from services.retrieval.tables import PassageRow, VectorStore
from shared.database import Database

ONCE_A_ROW = "nullif(current_setting('app.project_id', true), '')"
POLICIES = {"once a row": ONCE_A_ROW, "once a query": TENANT}
TABLES = ("vector_stores", "vector_store_files", "documents", "passages")
_MODES = ("bare scan", "dense", "text", "hybrid")
_REPEATS = 5
_DIMENSIONS = 384
_WORDS = 20_000
_PASSAGES_A_FILE = 100


def main() -> None:
    options = _options()
    rng = np.random.default_rng(7)
    with tempfile.TemporaryDirectory() as folder:
        engines = EmbeddedEngines(Path(folder))
        engines.start()
        try:
            _migrate(engines)
            _measure(engines, rng, passages=options.passages, queries=options.queries)
        finally:
            engines.stop()


def _measure(engines: EmbeddedEngines, rng: np.random.Generator, *, passages: int, queries: int) -> None:
    owner, database = Database(engines.admin_url), Database(engines.database_url)
    with owner.system_transaction() as session:
        project = found_project(session, organisation="benchmark", project="tenancy")
    with database.transaction(project) as session:
        store_id = _fill(session, project, rng, passages)
    with database.transaction(project) as session:
        began = time.perf_counter()
        refresh_statistics(session)
        print(f"{passages} passages in one store; ANALYZE took {time.perf_counter() - began:.2f} s\n")
    asked = [(_text(rng, 8), _vectors(rng, 1)[0]) for _ in range(queries)]
    best: dict[tuple[str, str], list[float]] = {(name, mode): [] for mode in _MODES for name in POLICIES}
    for words, vector in asked:
        times: dict[tuple[str, str], list[float]] = {key: [] for key in best}
        for _ in range(_REPEATS):
            for name, tenant in POLICIES.items():
                _set_policy(owner, tenant)
                for mode in _MODES:
                    with database.transaction(project) as session:
                        began = time.perf_counter()
                        _ask(session, store_id, words, vector, mode)
                        times[name, mode].append(1000 * (time.perf_counter() - began))
        for key, found in times.items():
            best[key].append(min(found))  # other work on the machine only ever adds
    print("| what | once a row, p50 ms | once a query, p50 ms | saved, median of pairs |\n|---|---|---|---|")
    for mode in _MODES:
        row, query = (np.array(best[name, mode]) for name in POLICIES)
        print(f"| {mode} | {median(row):.1f} | {median(query):.1f} | {median(row - query):.1f} ms |")
    owner.close()
    database.close()


def _ask(session: Session, store_id: str, words: str, vector: Vectors, mode: str) -> None:
    if mode == "bare scan":
        counted = sa.select(sa.func.count()).select_from(PassageRow).where(PassageRow.vector_store_id == store_id)
        assert session.scalar(counted)
    else:
        assert search(session, store_id, words, vector, k=10, mode=mode)


def _fill(session: Session, project: str, rng: np.random.Generator, passages: int) -> str:
    store = VectorStore(id="vs_benchmark", project_id=project, name="", embedder="random", chunking={}, metadata_={})
    session.add(store)
    session.flush()
    for number in range(0, passages, _PASSAGES_A_FILE):
        file = SourceFile(id=f"file-{number}", filename=f"{number}.md", blob_key="", bytes=0)
        chunks = [Chunk(_text(rng, 3), _text(rng, 60), 80) for _ in range(min(_PASSAGES_A_FILE, passages - number))]
        attach(session, store, [Attachment(file, {})], job_id="none")
        sizes = {"most": 80, "overlap": 0}
        replace_documents(session, store, [Indexed(file, "title", chunks, sizes, _vectors(rng, len(chunks)))])
    return store.id


def _text(rng: np.random.Generator, words: int) -> str:
    """Words as rare as those of a language: the n-th is drawn in proportion to 1/n, roughly."""
    drawn = np.minimum(rng.zipf(1.3, words), _WORDS)
    return " ".join(f"word{number}" for number in drawn)


def _vectors(rng: np.random.Generator, count: int) -> Vectors:
    """(count, dimensions) float32 unit vectors"""
    found = rng.standard_normal((count, _DIMENSIONS)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _set_policy(owner: Database, tenant: str) -> None:
    with owner.system_transaction() as session:
        for table in TABLES:
            mine = f"project_id = {tenant}"
            session.execute(sa.text(f"ALTER POLICY tenant ON {table} USING ({mine}) WITH CHECK ({mine})"))


def _migrate(engines: EmbeddedEngines) -> None:
    told = {"DATABASE_URL": engines.database_url, "DATABASE_ADMIN_URL": engines.admin_url}
    command = [sys.executable, "-m", "alembic", "-c", "migrations/alembic.ini", "upgrade", "head"]
    subprocess.run(command, env={**os.environ, **told}, check=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=10)
    return parser.parse_args()


if __name__ == "__main__":
    main()
