"""How long passages may be: what an embedder does not read is refused by name, and what is reported was used."""

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
import sqlalchemy as sa

from services.retrieval.tables import PassageRow, VectorStore, VectorStoreFile
from shared.database import Database
from shared.settings import Settings
from shared.storage import Storage
from tests.fakes.retrieval_parts import Parts
from tests.fakes.word_embedder import WordEmbedder

pytestmark = pytest.mark.stack
READS = WordEmbedder.most_tokens
LONG = "one two three four. " * 60
Door = Callable[[Parts, str, list[str], Any], Any]


def static(most: int, overlap: int = 0) -> Any:
    return {"type": "static", "static": {"max_chunk_size_tokens": most, "chunk_overlap_tokens": overlap}}


@pytest.fixture
def parts(settings: Settings, database: Database, storage: Storage, project_id: str) -> Iterator[Parts]:
    made = Parts(settings, database, storage, project_id)
    yield made
    made.http.close()


def with_a_store(parts: Parts, _store: str, files: list[str], strategy: Any) -> Any:
    return parts.client.vector_stores.create(file_ids=files, chunking_strategy=strategy)


def with_a_file(parts: Parts, store: str, files: list[str], strategy: Any) -> Any:
    return parts.client.vector_stores.files.create(store, file_id=files[0], chunking_strategy=strategy)


def with_a_batch(parts: Parts, store: str, files: list[str], strategy: Any) -> Any:
    return parts.client.vector_stores.file_batches.create(store, file_ids=files, chunking_strategy=strategy)


def with_a_file_of_a_batch(parts: Parts, store: str, files: list[str], strategy: Any) -> Any:
    first, second = files
    listed: list[Any] = [{"file_id": first}, {"file_id": second, "chunking_strategy": strategy}]
    return parts.client.vector_stores.file_batches.create(store, files=listed)


@pytest.mark.parametrize(
    ("door", "where"),
    [(with_a_store, ""), (with_a_file, ""), (with_a_batch, ""), (with_a_file_of_a_batch, "files.1.")],
)
def test_refuses_passages_longer_than_the_embedder_reads_and_names_the_field(
    parts: Parts, door: Door, where: str
) -> None:
    store, files = parts.client.vector_stores.create().id, parts.upload(a_md="one", b_md="two")
    with pytest.raises(openai.BadRequestError, match=f"at most {READS} tokens") as refused:
        door(parts, store, files, static(READS + 1))
    assert refused.value.param == f"{where}chunking_strategy.static.max_chunk_size_tokens"
    assert [one.id for one in parts.client.vector_stores.list()] == [store]
    assert parts.client.vector_stores.retrieve(store).file_counts.total == 0
    door(parts, store, files, static(READS, READS // 2))


def test_cuts_by_the_largest_sizes_that_it_takes_and_reports_them(parts: Parts) -> None:
    asked = static(READS, READS // 2)
    [file] = parts.upload(a_md=LONG)
    store = parts.client.vector_stores.create(file_ids=[file], chunking_strategy=asked).id
    assert reported(parts, store, file) == asked
    parts.work(store)
    assert reported(parts, store, file) == asked
    assert longest_passage(parts, store) > READS // 2


def test_auto_chooses_what_fits_and_is_reported_as_that(parts: Parts) -> None:
    first, second = parts.upload(a_md=LONG, b_md=LONG)
    store = parts.client.vector_stores.create(file_ids=[first], chunking_strategy={"type": "auto"}).id
    parts.client.vector_stores.files.create(store, file_id=second, chunking_strategy={"type": "auto"})
    for _ in ("while they wait", "once they are indexed"):
        assert reported(parts, store, first) == reported(parts, store, second) == static(READS)
        parts.work(store)
    assert longest_passage(parts, store) <= READS


def test_keeps_on_with_stores_that_asked_for_more_before_that_was_refused(parts: Parts) -> None:
    old, new = parts.upload(old_md=LONG, new_md=LONG)
    store = parts.client.vector_stores.create(file_ids=[old]).id
    parts.work(store)
    with parts.database.transaction(parts.project_id) as session:
        for table in (VectorStore, VectorStoreFile):
            session.execute(sa.update(table).values(chunking={"most": 800, "overlap": 400}))
    parts.client.vector_stores.files.create(store, file_id=new)
    assert parts.work(store) == ["succeeded"]
    listed = [file.chunking_strategy for file in parts.client.vector_stores.files.list(store)]
    assert [one.to_dict() for one in listed if one] == [static(READS, READS // 2)] * 2
    assert longest_passage(parts, store) <= READS


def test_reports_what_was_used_even_where_the_embedders_folder_does_not_say_what_it_reads(parts: Parts) -> None:
    (parts.wiring.settings.models_dir / "all-minilm-l6-v2" / "tokenizer.json").unlink()
    [file] = parts.upload(a_md=LONG)
    store = parts.client.vector_stores.create(file_ids=[file], chunking_strategy=static(800, 400)).id
    assert parts.work(store) == ["succeeded"]
    assert reported(parts, store, file) == static(READS, READS // 2)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("", {"file_ids": ["{known}", "file-none"]}, "file_ids"),
        ("/{store}/files", {"file_id": "file-none"}, "file_id"),
        ("/{store}/file_batches", {"file_ids": ["{known}", "file-none"]}, "file_ids"),
        ("/{store}/file_batches", {"files": [{"file_id": "{known}"}, {"file_id": "file-none"}]}, "files.1.file_id"),
    ],
)
def test_names_the_field_that_names_an_unknown_file(parts: Parts, path: str, body: dict[str, Any], param: str) -> None:
    [known] = parts.upload(a_md="one")
    store = parts.client.vector_stores.create().id
    refused = parts.http.post("/v1/vector_stores" + path.format(store=store), json=_filled(body, known))
    assert (refused.status_code, refused.json()["error"]["param"]) == (404, param)
    assert "file-none" in refused.json()["error"]["message"]


def _filled(body: Any, known: str) -> Any:
    if isinstance(body, dict):
        return {name: _filled(value, known) for name, value in body.items()}
    return [_filled(one, known) for one in body] if isinstance(body, list) else body.replace("{known}", known)


def reported(parts: Parts, store: str, file: str) -> Any:
    strategy = parts.client.vector_stores.files.retrieve(file, vector_store_id=store).chunking_strategy
    assert strategy is not None
    return strategy.to_dict()


def longest_passage(parts: Parts, store: str) -> int:
    with parts.database.transaction(parts.project_id) as session:
        longest = sa.select(sa.func.max(PassageRow.tokens)).where(PassageRow.vector_store_id == store)
        return session.scalar(longest) or 0
