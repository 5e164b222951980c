"""The search itself: an exact vector leg and a full-text leg in SQL, fused by rank.

Stores are scanned exactly through their btree: below about 50,000 passages that is faster than an HNSW index and
misses nothing. Row-level security filters both legs, so no query needs to name its tenant.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.retrieval.embedder import Vectors
from services.retrieval.filters import to_sql
from services.retrieval.fusion import fuse
from services.retrieval.lexemes import compounds, quote
from services.retrieval.tables import Document, PassageRow, VectorStoreFile

MODES = ("hybrid", "dense", "text")
_CANDIDATES = 50
"""How deep each leg goes before fusion, at least."""

# A term is worth its inverse document frequency within the store (Robertson and Spärck Jones), twice if the title has
# it: a document about wal_level must beat those that merely mention it.
_TEXT_LEG = """
WITH terms AS (
  SELECT word, plain::tsquery AS plain, titled::tsquery AS titled
  FROM unnest(CAST(:words AS text[]), CAST(:plain AS text[]), CAST(:titled AS text[])) AS t(word, plain, titled)),
hits AS (
  SELECT p.id, t.word, p.search @@ t.titled AS in_title
  FROM terms t JOIN passages p ON p.vector_store_id = :store AND p.search @@ t.plain {narrowed}),
known AS (SELECT count(*)::float AS n FROM passages WHERE vector_store_id = :store),
frequency AS (SELECT word, count(*)::float AS n FROM hits GROUP BY word)
SELECT h.id FROM hits h JOIN frequency f USING (word) CROSS JOIN known k
GROUP BY h.id
ORDER BY sum(ln(1 + (k.n - f.n + 0.5) / (f.n + 0.5)) * CASE WHEN h.in_title THEN 2 ELSE 1 END) DESC, h.id
LIMIT :most
"""


def search(
    session: Session,
    store_id: str,
    query: str,
    vector: Vectors | None,
    *,
    k: int,
    mode: str = "hybrid",
    filters: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """The k best passages, best first. `vector` is (dimensions,), needed unless the mode is "text".

    Raises InvalidFilter for a filter that makes no sense.
    """
    most = max(_CANDIDATES, k)
    allowed = _allowed_documents(session, store_id, filters)
    # a generic plan would ignore how many passages this store has; compiling a query costs more than running it
    session.execute(sa.text("SET LOCAL plan_cache_mode = force_custom_plan"))
    session.execute(sa.text("SET LOCAL jit = off"))
    legs: list[Sequence[str]] = []
    if mode != "text":
        assert vector is not None, f"mode {mode} needs the query's vector"
        legs.append(_dense(session, store_id, vector, most, allowed))
    if mode != "dense":
        legs.append(_text(session, store_id, query, most, allowed))
    best = fuse(legs)[:k]
    return _passages(session, best)


def _allowed_documents(session: Session, store_id: str, filters: dict[str, Any] | None) -> list[str] | None:
    """The documents whose file passes the filters; None without filters."""
    if filters is None:
        return None
    query = (
        sa.select(Document.id)
        .join(
            VectorStoreFile,
            sa.and_(
                VectorStoreFile.vector_store_id == Document.vector_store_id,
                VectorStoreFile.file_id == Document.file_id,
            ),
        )
        .where(Document.vector_store_id == store_id, to_sql(filters, VectorStoreFile.attributes))
    )
    return list(session.scalars(query))


def _dense(session: Session, store_id: str, vector: Vectors, most: int, allowed: list[str] | None) -> list[str]:
    distance = PassageRow.embedding.cosine_distance(vector.tolist())
    query = sa.select(PassageRow.id).where(PassageRow.vector_store_id == store_id)
    if allowed is not None:
        query = query.where(PassageRow.document_id.in_(allowed))
    return list(session.scalars(query.order_by(distance, PassageRow.id).limit(most)))


def _text(session: Session, store_id: str, query: str, most: int, allowed: list[str] | None) -> list[str]:
    stems = session.scalar(sa.text("SELECT tsvector_to_array(to_tsvector('english', :query))"), {"query": query})
    words = list(dict.fromkeys([*(stems or []), *compounds(query)]))
    if not words:
        return []
    values: dict[str, Any] = {
        "store": store_id,
        "words": words,
        "plain": [quote(word) for word in words],
        "titled": [f"{quote(word)}:A" for word in words],
        "most": most,
    }
    if allowed is not None:
        values["allowed"] = allowed
    narrowed = "" if allowed is None else "AND p.document_id = ANY(:allowed)"
    return list(session.scalars(sa.text(_TEXT_LEG.format(narrowed=narrowed)), values))


def _passages(session: Session, best: list[tuple[str, float]]) -> list[dict[str, Any]]:
    query = (
        sa.select(PassageRow, Document, VectorStoreFile.attributes)
        .join(Document, Document.id == PassageRow.document_id)
        .join(
            VectorStoreFile,
            sa.and_(
                VectorStoreFile.vector_store_id == Document.vector_store_id,
                VectorStoreFile.file_id == Document.file_id,
            ),
        )
        .where(PassageRow.id.in_([found for found, _ in best]))
    )
    rows = {passage.id: (passage, document, attributes) for passage, document, attributes in session.execute(query)}
    return [_as_dict(*rows[found], score) for found, score in best if found in rows]


def _as_dict(passage: PassageRow, document: Document, attributes: dict[str, Any], score: float) -> dict[str, Any]:
    return {
        "id": passage.id,
        "document_id": document.id,
        "document": document.key,
        "file_id": document.file_id,
        "title": passage.title,
        "text": passage.text,
        "score": score,
        "attributes": attributes,
    }
