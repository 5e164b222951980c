"""Every query of the data service; nothing here commits."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from services.data.domain import Example, Message, Placed
from services.data.errors import DatasetMissing
from services.data.tables import Dataset, ExampleRow
from shared import read_models
from shared.files import File, alive, get_file
from shared.jobs import Job
from shared.prompt_format import Passage

_Row = TypeVar("_Row", File, Dataset)


def list_files(
    session: Session, *, after: str | None, limit: int, descending: bool, purpose: str | None
) -> tuple[list[File], bool]:
    query = sa.select(File).where(alive())
    if purpose is not None:
        query = query.where(File.purpose == purpose)
    return _page(session, query, File, get_file(session, after) if after else None, limit, descending)


def expired_files(session: Session, limit: int) -> list[File]:
    """Files past their expiry, oldest first; nobody sees them any more."""
    query = sa.select(File).where(File.expires_at <= sa.func.now()).order_by(File.expires_at).limit(limit)
    return list(session.scalars(query.with_for_update(skip_locked=True)))


def get_dataset(session: Session, dataset_id: str, *, lock: bool = False) -> Dataset:
    """The project's dataset, or DatasetMissing."""
    query = sa.select(Dataset).where(Dataset.id == dataset_id)
    found = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if found is None:
        raise DatasetMissing(f"There is no dataset {dataset_id!r} in this project.", param="dataset_id")
    return found


def list_datasets(session: Session, *, after: str | None, limit: int, descending: bool) -> tuple[list[Dataset], bool]:
    last = get_dataset(session, after) if after else None
    return _page(session, sa.select(Dataset), Dataset, last, limit, descending)


def add_dataset_once(session: Session, **columns: Any) -> None:
    """Insert the row unless it is there already (the order may be delivered twice)."""
    session.execute(insert(Dataset).values(columns).on_conflict_do_nothing(index_elements=["id"]))


def jobs_of(session: Session, datasets: Iterable[Dataset]) -> dict[str, Job]:
    """The datasets' jobs by id: a dataset whose job ended without it is failed, whoever ended the job."""
    ids = [dataset.job_id for dataset in datasets if dataset.job_id]
    return {job.id: job for job in session.scalars(sa.select(Job).where(Job.id.in_(ids)))}


def add_examples(session: Session, project_id: str, dataset_id: str, first: int, placed: Sequence[Placed]) -> None:
    """Store examples from position `first` on; the same ones again change nothing."""
    rows = [_row(project_id, dataset_id, position, one) for position, one in enumerate(placed, start=first)]
    if rows:
        session.execute(insert(ExampleRow).on_conflict_do_nothing(), rows)


def clear_examples(session: Session, dataset_id: str) -> None:
    session.execute(sa.delete(ExampleRow).where(ExampleRow.dataset_id == dataset_id))


def list_examples(
    session: Session, dataset_id: str, *, split: str | None, after: str | None, limit: int
) -> tuple[list[ExampleRow], bool]:
    """Examples in the order of the source, after the example with id `after`."""
    query = sa.select(ExampleRow).where(ExampleRow.dataset_id == dataset_id).order_by(ExampleRow.position)
    if split is not None:
        query = query.where(ExampleRow.split == split)
    if after is not None:
        begin = sa.select(ExampleRow.position).where(ExampleRow.id == after, ExampleRow.dataset_id == dataset_id)
        query = query.where(ExampleRow.position > begin.scalar_subquery())
    found = list(session.scalars(query.limit(limit + 1)))
    return found[:limit], len(found) > limit


def load_placed(session: Session, dataset_id: str) -> list[Placed]:
    """A dataset as domain values; each example's provenance names the example it came from."""
    query = sa.select(ExampleRow).where(ExampleRow.dataset_id == dataset_id).order_by(ExampleRow.position)
    return [_placed(row) for row in session.scalars(query)]


def passages_of_documents(session: Session, vector_store_id: str, keys: Iterable[str]) -> dict[str, list[Passage]]:
    """The passages of the named documents of a corpus, in their order, by document key."""
    documents, passages = read_models.documents, read_models.passages
    query = (
        sa.select(
            passages.c.id,
            passages.c.document_id,
            passages.c.title,
            passages.c.text,
            documents.c.key.label("document"),
            documents.c.file_id,
        )
        .join_from(passages, documents, passages.c.document_id == documents.c.id)
        .where(documents.c.vector_store_id == vector_store_id, documents.c.key.in_(sorted(set(keys))))
        .order_by(documents.c.key, passages.c.position)
    )
    found: dict[str, list[Passage]] = {}
    for row in session.execute(query).mappings():
        found.setdefault(row["document"], []).append(Passage.model_validate(dict(row)))
    return found


def some_document_key(session: Session, vector_store_id: str) -> str | None:
    """Any document's key, to show how documents are named in a corpus."""
    documents = read_models.documents
    query = sa.select(documents.c.key).where(documents.c.vector_store_id == vector_store_id)
    found: str | None = session.scalar(query.order_by(documents.c.key).limit(1))
    return found


def _page(
    session: Session, query: sa.Select[Any], table: type[_Row], last: _Row | None, limit: int, descending: bool
) -> tuple[list[_Row], bool]:
    key = sa.tuple_(table.created_at, table.id)
    if last is not None:
        edge = sa.tuple_(sa.literal(last.created_at), sa.literal(last.id))
        query = query.where(key < edge if descending else key > edge)
    columns = (table.created_at, table.id)
    query = query.order_by(*(column.desc() if descending else column for column in columns)).limit(limit + 1)
    found: list[_Row] = list(session.scalars(query))
    return found[:limit], len(found) > limit


def _row(project_id: str, dataset_id: str, position: int, one: Placed) -> dict[str, Any]:
    example = one.example
    return {
        "id": f"ex_{dataset_id.removeprefix('ds_')}_{position:06d}",
        "project_id": project_id,
        "dataset_id": dataset_id,
        "position": position,
        "split": one.split,
        "messages": [{"role": turn.role, "content": turn.content} for turn in example.messages],
        "answer": example.answer,
        "documents": list(example.documents),
        "cluster": one.cluster,
        "metadata_": example.metadata,
        "provenance": example.provenance,
        "passages": None if example.passages is None else list(example.passages),
    }


def _placed(row: ExampleRow) -> Placed:
    example = Example(
        messages=tuple(Message(turn["role"], turn["content"]) for turn in row.messages),
        answer=row.answer,
        documents=tuple(row.documents),
        metadata=row.metadata_,
        provenance={"example_id": row.id},
        line=row.provenance.get("line", 0),
    )
    return Placed(example, row.split, row.cluster)  # type: ignore[arg-type]  # the column's check allows no other
