"""The search itself: two exact legs in SQL, by vector and by words, whose candidates are scored together.

Stores are scanned exactly through their btree: below about 50,000 passages that is faster than an HNSW index and
misses nothing. Row-level security filters every query, so none needs to name its tenant. It also bars a GIN index over
the words: `@@` is not leakproof, so Postgres checks it only after the tenant, row by row.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TSQUERY
from sqlalchemy.orm import Session

from services.retrieval.embedder import Vectors
from services.retrieval.filters import ComparisonFilter, CompoundFilter, to_sql
from services.retrieval.lexemes import compounds, quote
from services.retrieval.ranking import Candidate, Collection, rank
from services.retrieval.tables import Document, PassageRow, VectorStoreFile

_CANDIDATES = 50
"""How many passages each leg hands on, at least."""
_MOST_WORDS = 64
"""A question has fewer; of a whole page given as a query, the rarest are kept."""
_MOST_COUNTED = 512

Allowed = sa.Select[str] | None

_OCCURRENCES = sa.text("""
SELECT p.id, w.lexeme, 'A' = ANY(w.weights) AS titled, cardinality(array_positions(w.weights, 'D')) AS times
FROM passages p CROSS JOIN LATERAL unnest(p.search) w
WHERE p.id = ANY(:ids) AND w.lexeme = ANY(:words)
""")


def search(
    session: Session,
    store_id: str,
    query: str,
    vector: Vectors | None,
    *,
    k: int,
    mode: str = "hybrid",
    filters: ComparisonFilter | CompoundFilter | None = None,
) -> list[dict[str, Any]]:
    """The k best passages, best first. `vector` is (dimensions,), needed unless the mode is "text"."""
    most = max(_CANDIDATES, k)
    allowed = _allowed_documents(store_id, filters)
    # a generic plan would ignore how many passages this store has; compiling a query costs more than running it
    session.execute(
        sa.text("SELECT set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true)")
    )
    words, collection = _words(session, store_id, query) if mode != "dense" else ([], Collection(0, 0.0, {}))
    found: set[str] = set()
    if mode != "text":
        assert vector is not None, f"mode {mode} needs the query's vector"
        found.update(_nearest(session, store_id, vector, most, allowed))
    if words:
        found.update(_worded(session, store_id, words, collection, most, allowed))
    candidates = _candidates(session, sorted(found), words, vector if mode != "text" else None)
    return _passages(session, rank(candidates, words, collection, mode)[:k])


def _allowed_documents(store_id: str, filters: ComparisonFilter | CompoundFilter | None) -> Allowed:
    """The documents whose file passes the filters; None without filters."""
    if filters is None:
        return None
    return (
        sa.select(Document.id)
        .join(VectorStoreFile, _same_file())
        .where(Document.vector_store_id == store_id, to_sql(filters, VectorStoreFile.attributes))
    )


def _same_file() -> sa.ColumnElement[bool]:
    return sa.and_(
        VectorStoreFile.vector_store_id == Document.vector_store_id, VectorStoreFile.file_id == Document.file_id
    )


def _words(session: Session, store_id: str, query: str) -> tuple[list[str], Collection]:
    """The query's words that the store may know, rarest first, and the store's statistics of them."""
    stems = session.scalar(sa.text("SELECT tsvector_to_array(to_tsvector('english', :query))"), {"query": query})
    words = list(dict.fromkeys([*compounds(query), *(stems or [])]))[:_MOST_COUNTED]
    counts = (sa.func.count().filter(_has(word)) for word in words)
    of_store = PassageRow.vector_store_id == store_id
    row = session.execute(sa.select(sa.func.count(), sa.func.avg(PassageRow.tokens), *counts).where(of_store)).one()
    frequency = dict(zip(words, row[2:], strict=True))
    # a word that no passage has tells how little the others say, but must not take the place of one that some have
    rarest = sorted(words, key=lambda word: (frequency[word] == 0, frequency[word], word))[:_MOST_WORDS]
    return rarest, Collection(row[0], float(row[1] or 0.0), frequency)


def _has(word: str, weight: str = "") -> sa.ColumnElement[bool]:
    return PassageRow.search.bool_op("@@")(sa.cast(quote(word) + (f":{weight}" if weight else ""), TSQUERY))


def _nearest(session: Session, store_id: str, vector: Vectors, most: int, allowed: Allowed) -> list[str]:
    distance = PassageRow.embedding.cosine_distance(vector.tolist())
    query = sa.select(PassageRow.id).where(PassageRow.vector_store_id == store_id, *_narrowed(allowed))
    return list(session.scalars(query.order_by(distance, PassageRow.id).limit(most)))


def _worded(
    session: Session, store_id: str, words: Sequence[str], collection: Collection, most: int, allowed: Allowed
) -> list[str]:
    """The passages that have the words of most worth, twice where the title has them; `rank` scores them in full."""
    known = [word for word in words if collection.frequency[word]]
    if not known:
        return []
    matches = [_has(word) for word in known]
    worth = sum(
        sa.case((match, collection.worth(word) * sa.case((_has(word, "A"), 2.0), else_=1.0)), else_=0.0)
        for word, match in zip(known, matches, strict=True)
    )
    query = sa.select(PassageRow.id).where(
        PassageRow.vector_store_id == store_id, sa.or_(*matches), *_narrowed(allowed)
    )
    return list(session.scalars(query.order_by(sa.desc(worth), PassageRow.id).limit(most)))  # type: ignore[arg-type]


def _narrowed(allowed: Allowed) -> list[sa.ColumnElement[bool]]:
    return [] if allowed is None else [PassageRow.document_id.in_(allowed)]


def _candidates(session: Session, ids: Sequence[str], words: Sequence[str], vector: Vectors | None) -> list[Candidate]:
    """What `rank` needs to know of every passage that either leg found."""
    if not ids:
        return []
    distance = sa.literal(1.0) if vector is None else PassageRow.embedding.cosine_distance(vector.tolist())
    times: dict[str, dict[str, int]] = {found: {} for found in ids}
    titled: dict[str, set[str]] = {found: set() for found in ids}
    for row in session.execute(_OCCURRENCES, {"ids": list(ids), "words": list(words)}) if words else ():
        times[row.id][row.lexeme] = row.times
        if row.titled:
            titled[row.id].add(row.lexeme)
    query = sa.select(PassageRow.id, PassageRow.tokens, distance).where(PassageRow.id.in_(ids))
    return [
        Candidate(found, tokens, 1.0 - float(far), times[found], frozenset(titled[found]))
        for found, tokens, far in session.execute(query)
    ]


def _passages(session: Session, best: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    query = (
        sa.select(PassageRow, Document, VectorStoreFile.attributes)
        .options(sa.orm.defer(PassageRow.embedding), sa.orm.defer(PassageRow.search))
        .join(Document, Document.id == PassageRow.document_id)
        .join(VectorStoreFile, _same_file())
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
