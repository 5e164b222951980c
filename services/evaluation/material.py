"""What the evaluation service reads of other services: datasets, examples, corpora, adapters, variants."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.evaluation.errors import DatasetNotFound, EmptySplit, NotReady, VectorStoreNotFound
from shared import read_models as others


@dataclass(frozen=True)
class Dataset:
    """A frozen dataset; `sizes` counts examples per split."""

    id: str
    name: str
    sha256: str
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class Example:
    """A question with its reference answer. `cluster` is what statistics resample by."""

    id: str
    messages: Sequence[dict[str, str]]
    answer: str
    documents: Sequence[str]
    cluster: str
    metadata: Mapping[str, Any]

    @property
    def question(self) -> str:
        """The last thing that the user says."""
        return next((m["content"] for m in reversed(self.messages) if m["role"] == "user"), "")


@dataclass(frozen=True)
class Corpus:
    """A vector store as a report names it; `sha256` covers every document's name and bytes."""

    id: str
    name: str
    embedder: str
    documents: int
    passages: int
    sha256: str


def dataset(session: Session, dataset_id: str) -> Dataset:
    """A dataset that is ready; raises DatasetNotFound or NotReady."""
    table = others.datasets
    row = session.execute(sa.select(table).where(table.c.id == dataset_id)).one_or_none()
    if row is None:
        raise DatasetNotFound(f"There is no dataset {dataset_id!r} in this project.", param="dataset")
    if row.status != "ready":
        raise NotReady(
            f"Dataset {dataset_id} is {row.status}. Wait until it is ready; GET /v1/datasets/{dataset_id} shows it.",
            param="dataset",
        )
    return Dataset(row.id, row.name, row.sha256, row.sizes)


def require_splits(found: Dataset, splits: Sequence[str]) -> None:
    """Raise EmptySplit unless every split has examples."""
    empty = [split for split in splits if not found.sizes.get(split)]
    if empty:
        raise EmptySplit(
            f"Dataset {found.id} has no examples in: {', '.join(empty)}. Import more examples: at least a few source "
            "documents are needed for every split.",
            param="dataset",
        )


def examples(session: Session, dataset_id: str, split: str) -> list[Example]:
    """A split's examples in their frozen order."""
    table = others.examples
    query = sa.select(table).where(table.c.dataset_id == dataset_id, table.c.split == split)
    return [_example(row) for row in session.execute(query.order_by(table.c.position))]


def examples_by_id(session: Session, ids: Sequence[str]) -> dict[str, Example]:
    """Those of the examples that still exist."""
    table = others.examples
    return {row.id: _example(row) for row in session.execute(sa.select(table).where(table.c.id.in_(list(ids))))}


def corpus(session: Session, vector_store_id: str) -> Corpus:
    """A vector store with indexed documents; raises VectorStoreNotFound or NotReady."""
    stores = others.vector_stores
    store = session.execute(sa.select(stores).where(stores.c.id == vector_store_id)).one_or_none()
    if store is None:
        raise VectorStoreNotFound(
            f"There is no vector store {vector_store_id!r} in this project.", param="vector_store"
        )
    documents, passages = others.documents, others.passages
    with_file = documents.outerjoin(others.files, documents.c.file_id == others.files.c.id)
    named = sa.select(documents.c.key, others.files.c.sha256).select_from(with_file)
    named = named.where(documents.c.vector_store_id == vector_store_id).order_by(documents.c.key)
    found = session.execute(named).all()
    count = sa.select(sa.func.count()).select_from(passages).where(passages.c.vector_store_id == vector_store_id)
    if store.status == "in_progress" or not found:
        raise NotReady(
            f"Vector store {vector_store_id} is {store.status} and has {len(found)} indexed documents. Wait until its "
            f"files are indexed; GET /v1/vector_stores/{vector_store_id} shows how many are.",
            param="vector_store",
        )
    digest = hashlib.sha256("".join(f"{row.key}\0{row.sha256}\n" for row in found).encode()).hexdigest()
    passages_count = session.execute(count).scalar_one()
    return Corpus(store.id, store.name, store.embedder, len(found), passages_count, digest)


def adapters(session: Session, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Facts of adapters by id: recipe as it ran, metrics, training seconds and tokens."""
    table = others.adapters
    found = session.execute(sa.select(table).where(table.c.id.in_(list(ids)))).mappings()
    return {row["id"]: dict(row) for row in found}


def variant(session: Session, *, id: str | None = None, model: str | None = None) -> Mapping[str, Any] | None:  # noqa: A002
    """A variant by its id or by the model id that clients call; None for any other model."""
    table = others.variants
    wanted = table.c.id == id if id is not None else table.c.model_id == model
    found = session.execute(sa.select(table).where(wanted)).mappings().one_or_none()
    return None if found is None else dict(found)


def _example(row: sa.Row[Any]) -> Example:
    return Example(row.id, row.messages, row.answer, row.documents or [], row.cluster, row.metadata or {})
