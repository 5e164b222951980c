"""The rows of a store's documents and passages: written whole, read back in order, freed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import sqlalchemy as sa
from pgvector import HalfVector
from sqlalchemy.orm import Session

from services.retrieval.embedder import Vectors
from services.retrieval.lexemes import compounds, tsvector_literal
from services.retrieval.passages import Chunk
from services.retrieval.repository import SourceFile
from services.retrieval.tables import Document, VectorStore, VectorStoreFile
from shared import read_models
from shared.ids import new_id

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
class Indexed:
    """A file cut by `sizes` and embedded, ready to be written. vectors: (len(chunks), dimensions)."""

    file: SourceFile
    title: str
    chunks: Sequence[Chunk]
    sizes: dict[str, int]
    vectors: Vectors


def replace_documents(session: Session, store: VectorStore, indexed: Sequence[Indexed]) -> None:
    """Write documents and passages in place of those of an earlier attempt; the files are completed."""
    if not indexed:
        return
    free_documents(session, store.id, [one.file.id for one in indexed])
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
    rows = (row for one in indexed for row in _passage_rows(ids[one.file.id], one))
    # made as they are written: the transaction may not idle for long
    while some := list(islice(rows, _ROWS_A_STATEMENT)):
        columns = {name: [row[name] for row in some] for name in some[0]}
        session.execute(_INSERT_PASSAGES, columns | {"project_id": store.project_id, "store": store.id})
    completed = [
        {
            "vector_store_id": store.id,
            "file_id": one.file.id,
            "status": "completed",
            "last_error": None,
            "chunking": one.sizes,
            "usage_bytes": sum(len(chunk.text.encode()) for chunk in one.chunks),
        }
        for one in indexed
    ]
    session.execute(sa.update(VectorStoreFile), completed)


def _passage_rows(document_id: str, one: Indexed) -> Iterator[dict[str, Any]]:
    """Ids sort in reading order, so that equal scores are answered in it."""
    stem = document_id.removeprefix("doc_")
    return (
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
    )


def free_documents(session: Session, store_id: str, file_ids: Sequence[str] | None = None) -> None:
    """Delete documents with their passages, of some files or of the whole store, which use no space then."""
    documents = sa.delete(Document).where(Document.vector_store_id == store_id)
    files = sa.update(VectorStoreFile).where(VectorStoreFile.vector_store_id == store_id).values(usage_bytes=0)
    if file_ids is not None:
        documents = documents.where(Document.file_id.in_(file_ids))
        files = files.where(VectorStoreFile.file_id.in_(file_ids))
    session.execute(documents)
    session.execute(files)


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
