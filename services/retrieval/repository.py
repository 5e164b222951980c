"""Every query of the retrieval service but the search itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from pgvector import HalfVector
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from services.retrieval.embedder import Vectors
from services.retrieval.errors import FileNotFound, VectorStoreFileNotFound, VectorStoreNotFound
from services.retrieval.lexemes import compounds, tsvector_literal
from services.retrieval.passages import Chunk
from services.retrieval.tables import Document, VectorStore, VectorStoreFile
from shared import read_models
from shared.ids import new_id
from shared.jobs import TERMINAL, Job
from shared.messages import IndexVectorStore

_INSERT_PASSAGES = sa.text("""
INSERT INTO passages (id, project_id, vector_store_id, document_id, position, title, text, tokens, embedding, search)
SELECT id, :project_id, :store, document, position, title, text, tokens, CAST(embedding AS halfvec),
  setweight(to_tsvector('english', title), 'A') || to_tsvector('english', text)
  || CAST(title_words AS tsvector) || CAST(text_words AS tsvector)
FROM unnest(CAST(:id AS text[]), CAST(:document AS text[]), CAST(:position AS integer[]), CAST(:title AS text[]),
  CAST(:text AS text[]), CAST(:tokens AS integer[]), CAST(:embedding AS text[]), CAST(:title_words AS text[]),
  CAST(:text_words AS text[]))
  AS p(id, document, position, title, text, tokens, embedding, title_words, text_words)
""")
_ROWS_A_STATEMENT = 1000


@dataclass(frozen=True)
class SourceFile:
    """An uploaded file as retrieval reads it."""

    id: str
    filename: str
    blob_key: str
    bytes: int


@dataclass(frozen=True)
class Indexed:
    """A file cut and embedded, ready to be written. vectors: (len(chunks), dimensions)."""

    file: SourceFile
    title: str
    chunks: Sequence[Chunk]
    vectors: Vectors


def get_store(session: Session, store_id: str, *, lock: bool = False) -> VectorStore:
    query = sa.select(VectorStore).where(VectorStore.id == store_id)
    found = session.scalars(query.with_for_update(key_share=True) if lock else query).one_or_none()
    if found is None:
        raise VectorStoreNotFound(f"There is no vector store {store_id!r} in this project.", param="vector_store_id")
    return found


def list_stores(session: Session, *, after: str | None, limit: int, descending: bool) -> tuple[list[VectorStore], bool]:
    query = sa.select(VectorStore).limit(limit + 1)
    place = sa.tuple_(VectorStore.created_at, VectorStore.id)
    order = (VectorStore.created_at, VectorStore.id)
    query = query.order_by(*(column.desc() for column in order)) if descending else query.order_by(*order)
    if after is not None:
        last = get_store(session, after)
        bound = sa.tuple_(last.created_at, last.id)
        query = query.where(place < bound if descending else place > bound)
    found = list(session.scalars(query))
    return found[:limit], len(found) > limit


def source_files(session: Session, file_ids: Sequence[str]) -> list[SourceFile]:
    """The project's files in the order asked; FileNotFound names the first that is missing."""
    found = existing_files(session, file_ids)
    for file_id in file_ids:
        if file_id not in found:
            raise FileNotFound(f"There is no file {file_id!r} in this project.", param="file_ids")
    return [found[file_id] for file_id in file_ids]


def existing_files(session: Session, file_ids: Sequence[str]) -> dict[str, SourceFile]:
    """Those of the files that the project has."""
    files = read_models.files
    columns = (files.c.id, files.c.filename, files.c.blob_key, files.c.bytes)
    rows = session.execute(sa.select(*columns).where(files.c.id.in_(file_ids)))
    return {row.id: SourceFile(**row._mapping) for row in rows}


def add_files(session: Session, store: VectorStore, files: Sequence[SourceFile], attributes: dict[str, Any]) -> None:
    """Attach files, waiting to be indexed; one that is attached already starts anew."""
    if not files:
        return
    rows = [
        {
            "vector_store_id": store.id,
            "file_id": file.id,
            "project_id": store.project_id,
            "filename": file.filename,
            "attributes": attributes,
            "status": "in_progress",
        }
        for file in files
    ]
    adding = insert(VectorStoreFile)
    session.execute(
        adding.on_conflict_do_update(
            index_elements=["vector_store_id", "file_id"],
            set_={"status": "in_progress", "attributes": adding.excluded.attributes, "last_error": None},
        ),
        rows,
    )


def get_file(session: Session, store_id: str, file_id: str) -> VectorStoreFile:
    found = session.get(VectorStoreFile, (store_id, file_id))
    if found is None:
        raise VectorStoreFileNotFound(f"File {file_id!r} is not in vector store {store_id!r}.", param="file_id")
    return found


def list_files(
    session: Session, store_id: str, *, after: str | None, limit: int, status: str | None, descending: bool
) -> tuple[list[VectorStoreFile], bool]:
    query = sa.select(VectorStoreFile).where(VectorStoreFile.vector_store_id == store_id).limit(limit + 1)
    place = sa.tuple_(VectorStoreFile.created_at, VectorStoreFile.file_id)
    order = (VectorStoreFile.created_at, VectorStoreFile.file_id)
    query = query.order_by(*(column.desc() for column in order)) if descending else query.order_by(*order)
    if status is not None:
        query = query.where(VectorStoreFile.status == status)
    if after is not None:
        last = get_file(session, store_id, after)
        bound = sa.tuple_(last.created_at, last.file_id)
        query = query.where(place < bound if descending else place > bound)
    found = list(session.scalars(query))
    return found[:limit], len(found) > limit


def file_counts(session: Session, store_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """OpenAI's file_counts and usage_bytes per store."""
    counted = (
        sa.select(
            VectorStoreFile.vector_store_id,
            VectorStoreFile.status,
            sa.func.count().label("files"),
            sa.func.sum(VectorStoreFile.usage_bytes).label("bytes"),
        )
        .where(VectorStoreFile.vector_store_id.in_(store_ids))
        .group_by(VectorStoreFile.vector_store_id, VectorStoreFile.status)
    )
    empty = {"in_progress": 0, "completed": 0, "failed": 0, "cancelled": 0, "total": 0, "usage_bytes": 0}
    found = {store_id: dict(empty) for store_id in store_ids}
    for row in session.execute(counted):
        counts = found[row.vector_store_id]
        counts[row.status] += row.files
        counts["total"] += row.files
        counts["usage_bytes"] += int(row.bytes or 0)
    return found


def replace_documents(session: Session, store: VectorStore, indexed: Sequence[Indexed]) -> None:
    """Write documents and passages in place of those of an earlier attempt; the files are completed."""
    if not indexed:
        return
    file_ids = [one.file.id for one in indexed]
    session.execute(sa.delete(Document).where(Document.vector_store_id == store.id, Document.file_id.in_(file_ids)))
    ids = {one.file.id: new_id("doc_") for one in indexed}
    documents = [
        {
            "id": ids[one.file.id],
            "project_id": store.project_id,
            "vector_store_id": store.id,
            "file_id": one.file.id,
            "key": one.file.filename,
            "title": one.title,
        }
        for one in indexed
    ]
    session.execute(sa.insert(Document), documents)
    rows = [row for one in indexed for row in _passage_rows(ids[one.file.id], one)]
    for begin in range(0, len(rows), _ROWS_A_STATEMENT):
        some = rows[begin : begin + _ROWS_A_STATEMENT]
        columns = {name: [row[name] for row in some] for name in some[0]}
        session.execute(_INSERT_PASSAGES, columns | {"project_id": store.project_id, "store": store.id})
    completed = [
        {
            "vector_store_id": store.id,
            "file_id": one.file.id,
            "status": "completed",
            "last_error": None,
            "usage_bytes": sum(len(chunk.text.encode()) for chunk in one.chunks),
        }
        for one in indexed
    ]
    session.execute(sa.update(VectorStoreFile), completed)


def _passage_rows(document_id: str, one: Indexed) -> list[dict[str, Any]]:
    """Ids sort in reading order, so that equal scores are answered in it."""
    stem = document_id.removeprefix("doc_")
    return [
        {
            "id": f"psg_{stem}_{position:06}",
            "document": document_id,
            "position": position,
            "title": chunk.title,
            "text": chunk.text,
            "tokens": chunk.tokens,
            "embedding": HalfVector(vector).to_text(),
            "title_words": tsvector_literal(compounds(chunk.title), "A"),
            "text_words": tsvector_literal(compounds(chunk.text), "D"),
        }
        for position, (chunk, vector) in enumerate(zip(one.chunks, one.vectors, strict=True))
    ]


def fail_file(session: Session, store_id: str, file_id: str, *, code: str, message: str) -> None:
    """Record why a file could not be indexed; passages of an earlier attempt go."""
    of_file = (Document.vector_store_id == store_id, Document.file_id == file_id)
    session.execute(sa.delete(Document).where(*of_file))
    session.execute(
        sa.update(VectorStoreFile)
        .where(VectorStoreFile.vector_store_id == store_id, VectorStoreFile.file_id == file_id)
        .values(status="failed", usage_bytes=0, last_error={"code": code, "message": message})
    )


def waiting_files(session: Session, store_id: str, file_ids: Sequence[str], *, lock: bool = False) -> list[str]:
    """Those of `file_ids` that are still to be indexed, in the order given: what a resumed job goes on with.

    With `lock` nobody detaches them or indexes them too before the transaction ends.
    """
    query = (
        sa.select(VectorStoreFile.file_id)
        .where(
            VectorStoreFile.vector_store_id == store_id,
            VectorStoreFile.file_id.in_(file_ids),
            VectorStoreFile.status == "in_progress",
        )
        .order_by(VectorStoreFile.file_id)
    )
    waiting = set(session.scalars(query.with_for_update() if lock else query))
    return [file_id for file_id in file_ids if file_id in waiting]


def settle(session: Session, store_id: str) -> None:
    """Files that no job will index any more (it failed, or was cancelled before or while it ran) stop waiting."""
    of_store = (Job.subject_id == store_id, Job.kind == IndexVectorStore.kind)
    alive = sa.exists().where(*of_store, Job.status.not_in(TERMINAL))
    last = sa.select(Job.status, Job.error).where(*of_store).order_by(Job.finished_at.desc().nulls_last()).limit(1)
    ended = session.execute(last).one_or_none()
    status = "cancelled" if ended is not None and ended.status == "cancelled" else "failed"
    reason = ((ended.error if ended is not None else None) or {}).get("message", "The job that indexes it has ended.")
    error = {"code": "server_error", "message": f"{reason} Attach the file again to index it."}
    settled = session.execute(
        sa.update(VectorStoreFile)
        .where(VectorStoreFile.vector_store_id == store_id, VectorStoreFile.status == "in_progress", ~alive)
        .values(status=status, last_error=error if status == "failed" else None)
        .returning(VectorStoreFile.file_id)
        .execution_options(synchronize_session=False)
    )
    if settled.all():
        finish_store(session, store_id)


def file_text(session: Session, store_id: str, file_id: str) -> list[str]:
    """The passages' texts of a file in reading order."""
    passages, documents = read_models.passages, read_models.documents
    query = (
        sa.select(passages.c.text)
        .join(documents, documents.c.id == passages.c.document_id)
        .where(documents.c.vector_store_id == store_id, documents.c.file_id == file_id)
        .order_by(passages.c.position)
    )
    return list(session.scalars(query))


def refresh_statistics(session: Session) -> None:
    """Let the planner know what was loaded; before Postgres 17 only an owner may, so autovacuum does it later."""
    version = session.connection().dialect.server_version_info
    if version is not None and version >= (17,):
        session.execute(sa.text("ANALYZE passages"))


def finish_store(session: Session, store_id: str) -> None:
    """A store is complete when none of its files waits."""
    waiting = sa.select(VectorStoreFile.file_id).where(
        VectorStoreFile.vector_store_id == store_id, VectorStoreFile.status == "in_progress"
    )
    done = sa.case((sa.exists(waiting), "in_progress"), else_="completed")
    session.execute(sa.update(VectorStore).where(VectorStore.id == store_id).values(status=done))
