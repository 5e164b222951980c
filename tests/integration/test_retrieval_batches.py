"""Batches of files with the unmodified OpenAI client: attached, watched, cancelled, overtaken."""

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
import sqlalchemy as sa
from openai.types.vector_stores import VectorStoreFileBatch

from services.retrieval.tables import FileBatch, FileOfBatch, PassageRow
from shared import jobs
from shared.database import Database
from shared.jobs import Job
from shared.settings import Settings
from shared.storage import Storage
from tests.conftest import make_project
from tests.fakes.retrieval_parts import Parts

pytestmark = pytest.mark.stack
TEXTS = {f"d{n}_md": f"# item_{n}\n\nThing number {n}." for n in range(4)}


@pytest.fixture
def parts(settings: Settings, database: Database, storage: Storage, project_id: str) -> Iterator[Parts]:
    made = Parts(settings, database, storage, project_id)
    yield made
    made.http.close()


@pytest.fixture
def store(parts: Parts) -> str:
    return parts.client.vector_stores.create(name="batches").id


def create(parts: Parts, store: str, **body: Any) -> VectorStoreFileBatch:
    return parts.client.vector_stores.file_batches.create(store, **body)


def show(parts: Parts, store: str, batch: str) -> VectorStoreFileBatch:
    return parts.client.vector_stores.file_batches.retrieve(batch, vector_store_id=store)


def counts(batch: VectorStoreFileBatch) -> dict[str, int]:
    return {name: count for name, count in batch.file_counts.to_dict().items() if isinstance(count, int) and count}


def test_uploads_waits_and_finds_with_the_clients_own_helpers(parts: Parts, store: str) -> None:
    sent = [(f"d{n}.md", f"# item_{n}\n\nThing number {n}.".encode()) for n in range(3)]
    with parts.working():
        batch = parts.client.vector_stores.file_batches.upload_and_poll(store, files=sent)
        alone = parts.client.vector_stores.files.upload_and_poll(
            vector_store_id=store, file=("alone.md", b"# alone\n\nNobody else."), attributes={"year": 2026}
        )
    assert (batch.object, batch.status, counts(batch)) == (
        "vector_store.files_batch",
        "completed",
        {"completed": 3, "total": 3},
    )
    assert (alone.status, alone.attributes) == ("completed", {"year": 2026})
    assert parts.ask(store, "item_2", max_num_results=1) == ["d2.md"]
    assert parts.ask(store, "alone", filters={"type": "eq", "key": "year", "value": 2026}) == ["alone.md"]


def test_gives_each_file_its_own_attributes_and_passages(parts: Parts, store: str) -> None:
    short, long = parts.upload(short_md="one two three. " * 20, long_md="one two three. " * 20)
    static = {"type": "static", "static": {"max_chunk_size_tokens": 20, "chunk_overlap_tokens": 4}}
    files: list[Any] = [
        {"file_id": short, "attributes": {"kind": "short"}, "chunking_strategy": static},
        {"file_id": long, "attributes": {"kind": "long"}, "chunking_strategy": {"type": "auto"}},
    ]
    batch = create(parts, store, files=files)
    assert counts(batch) == {"in_progress": 2, "total": 2}
    assert parts.work(store) == ["succeeded"]
    read = {
        file_id: parts.client.vector_stores.files.retrieve(file_id, vector_store_id=store) for file_id in (short, long)
    }
    assert [file.attributes for file in read.values()] == [{"kind": "short"}, {"kind": "long"}]
    strategy = read[short].chunking_strategy
    assert strategy is not None
    assert strategy.to_dict() == static
    pieces = {
        file_id: len(list(parts.client.vector_stores.files.content(file_id, vector_store_id=store))) for file_id in read
    }
    assert pieces[short] > pieces[long] > 0
    filters: Any = {"type": "in", "key": "kind", "value": ["long"]}
    assert set(parts.ask(store, "three", filters=filters)) == {"long.md"}


def test_shares_attributes_among_file_ids(parts: Parts, store: str) -> None:
    files = parts.upload(a_md="one", b_md="two")
    create(parts, store, file_ids=[*files, files[0]], attributes={"year": 1})
    found = list(parts.client.vector_stores.files.list(store))
    assert [file.attributes for file in found] == [{"year": 1.0}] * 2


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "one of the two"),
        ({"file_ids": ["a"], "files": [{"file_id": "a"}]}, "one of the two"),
        ({"file_ids": []}, "at least 1"),
        ({"file_ids": ["a"] * 2001}, "at most 2000"),
        ({"files": [{"file_id": "a"}], "attributes": {"a": 1}}, "each of them"),
        ({"files": [{"file_id": "a"}, {"file_id": "a"}]}, "twice"),
        ({"files": [{"file_id": "a", "nonsense": 1}]}, "nonsense"),
    ],
)
def test_refuses_a_batch_that_says_too_little_or_too_much(
    parts: Parts, store: str, body: dict[str, Any], says: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=says):
        parts.client.post(f"/vector_stores/{store}/file_batches", body=body, cast_to=object)


def test_refuses_a_batch_with_a_file_that_does_not_exist_and_keeps_nothing(parts: Parts, store: str) -> None:
    with pytest.raises(openai.NotFoundError, match="file-none"):
        create(parts, store, file_ids=[*parts.upload(a_md="one"), "file-none"])
    assert parts.client.vector_stores.retrieve(store).file_counts.total == 0
    assert parts.queued(store) == []


def test_tells_the_poller_when_to_ask_again_only_while_there_is_something_to_wait_for(parts: Parts, store: str) -> None:
    [file] = parts.upload(a_md="one")
    batch = create(parts, store, file_ids=[file])
    paths = (f"/v1/vector_stores/{store}", f"/v1/vector_stores/{store}/files/{file}")
    paths += (f"/v1/vector_stores/{store}/file_batches/{batch.id}",)
    assert all(int(parts.http.get(path).headers["openai-poll-after-ms"]) > 0 for path in paths)
    parts.work(store)
    assert not any("openai-poll-after-ms" in parts.http.get(path).headers for path in paths)


def test_fails_a_file_alone_and_completes_the_batch(parts: Parts, store: str) -> None:
    good, bad = parts.upload(good_md="words", scan_pdf=b"%PDF-1.7")
    batch = create(parts, store, file_ids=[good, bad])
    parts.work(store)
    after = show(parts, store, batch.id)
    assert (after.status, counts(after)) == ("completed", {"completed": 1, "failed": 1, "total": 2})
    [failed] = parts.client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store, filter="failed")
    assert failed.id == bad
    assert failed.last_error is not None
    assert failed.last_error.code == "unsupported_file"
    assert ".pdf" in failed.last_error.message


def test_cancels_what_is_not_indexed_and_keeps_what_is(
    parts: Parts, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPLIFT_FILES_PER_TRANSACTION", "1")
    batch = create(parts, store, file_ids=parts.upload(**TEXTS))

    answered: list[VectorStoreFileBatch] = []

    def cancel_at_third() -> None:
        if parts.embedder.embedded == 2:
            answered.append(parts.client.vector_stores.file_batches.cancel(batch.id, vector_store_id=store))

    parts.embedder.before = cancel_at_third
    parts.work(store)
    parts.embedder.before = lambda: None
    for seen in (*answered, show(parts, store, batch.id)):
        assert (seen.status, counts(seen)) == ("cancelled", {"completed": 2, "cancelled": 2, "total": 4})
    assert len(answered) == 1
    assert parts.count(PassageRow, store) == 2
    assert parts.client.vector_stores.retrieve(store).status == "completed"
    assert len(parts.ask(store, "Thing")) == 2
    with pytest.raises(openai.BadRequestError, match="already cancelled"):
        parts.client.vector_stores.file_batches.cancel(batch.id, vector_store_id=store)


def test_cancels_a_batch_that_no_worker_has_taken_yet(parts: Parts, store: str) -> None:
    batch = create(parts, store, file_ids=parts.upload(**TEXTS))
    assert parts.client.vector_stores.file_batches.cancel(batch.id, vector_store_id=store).status == "cancelled"
    assert parts.queued(store) == []
    listed = list(parts.client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store))
    assert {file.status for file in listed} == {"cancelled"}


def test_leaves_a_file_that_was_attached_anew_to_the_newer_order(parts: Parts, store: str) -> None:
    first, second = parts.upload(first_md="one. " * 60, second_md="two")
    batch = create(parts, store, file_ids=[first, second], attributes={"version": 1})
    parts.client.vector_stores.files.create(store, file_id=first, attributes={"version": 2})
    parts.client.vector_stores.file_batches.cancel(batch.id, vector_store_id=store)
    parts.work(store)
    files = {file.id: file for file in parts.client.vector_stores.files.list(store)}
    assert (files[first].status, files[first].attributes) == ("completed", {"version": 2.0})
    assert files[second].status == "cancelled"


def test_writes_nothing_of_an_order_that_was_overtaken_while_it_ran(parts: Parts, store: str) -> None:
    [file] = parts.upload(a_md="one two three. " * 20)
    create(parts, store, file_ids=[file])
    static = {"max_chunk_size_tokens": 20, "chunk_overlap_tokens": 0}

    def attach_anew() -> None:
        parts.embedder.before = lambda: None
        parts.client.vector_stores.files.create(
            store,
            file_id=file,
            chunking_strategy={"type": "static", "static": static},  # type: ignore[typeddict-item]
        )

    parts.embedder.before = attach_anew
    [overtaken] = parts.queued(store)
    parts.run(overtaken)
    assert parts.count(PassageRow, store) == 0
    assert parts.client.vector_stores.files.retrieve(file, vector_store_id=store).status == "in_progress"
    parts.work(store)
    assert parts.count(PassageRow, store) > 2


@pytest.mark.parametrize(("ends", "becomes"), [("failed", "failed"), ("cancelled", "cancelled")])
def test_ends_with_its_job(parts: Parts, store: str, ends: str, becomes: str) -> None:
    [file] = parts.upload(a_md="one")
    batch = create(parts, store, file_ids=[file])
    if ends == "failed":
        parts.named = {}
        assert parts.work(store) == ["failed"]
    else:
        with parts.database.transaction(parts.project_id) as session:
            jobs.cancel(session, parts.queued(store)[0])
    after = show(parts, store, batch.id)
    assert (after.status, counts(after)) == (becomes, {becomes: 1, "total": 1})
    assert parts.client.vector_stores.files.retrieve(file, vector_store_id=store).status == becomes


def test_keeps_the_counts_that_a_batch_ended_with(parts: Parts, store: str) -> None:
    files = parts.upload(a_md="one", b_md="two")
    batch = create(parts, store, file_ids=files)
    parts.work(store)
    parts.client.vector_stores.files.delete(files[0], vector_store_id=store)
    parts.client.vector_stores.files.create(store, file_id=files[1])
    after = show(parts, store, batch.id)
    assert (after.status, counts(after)) == ("completed", {"completed": 2, "total": 2})
    listed = parts.client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store)
    assert [file.id for file in listed] == [files[1]]


def test_ends_when_the_last_file_that_waited_is_detached(parts: Parts, store: str) -> None:
    [file] = parts.upload(a_md="one")
    batch = create(parts, store, file_ids=[file])
    parts.client.vector_stores.files.delete(file, vector_store_id=store)
    assert show(parts, store, batch.id).status == "completed"
    assert parts.client.vector_stores.retrieve(store).status == "completed"
    assert parts.work(store) == ["succeeded"]


def test_pages_the_files_of_a_batch_to_their_end(parts: Parts, store: str) -> None:
    others = parts.upload(other_md="x")
    files = parts.upload(**{f"d{n}_md": "x" for n in range(5)})
    create(parts, store, file_ids=others)
    batch = create(parts, store, file_ids=files)
    listed = parts.client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store, limit=2, order="asc")
    assert [file.id for file in listed] == sorted(files)


def test_shows_no_batch_to_another_project_or_store(
    settings: Settings, database: Database, storage: Storage, admin_database: Database, parts: Parts, store: str
) -> None:
    batch = create(parts, store, file_ids=parts.upload(a_md="one"))
    elsewhere = parts.client.vector_stores.create().id
    with pytest.raises(openai.NotFoundError):
        show(parts, elsewhere, batch.id)
    stranger = Parts(settings, database, storage, make_project(admin_database))
    calls: list[Callable[..., Any]] = [
        stranger.client.vector_stores.file_batches.retrieve,
        stranger.client.vector_stores.file_batches.cancel,
        stranger.client.vector_stores.file_batches.list_files,
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError):
            call(batch.id, vector_store_id=store)
    with pytest.raises(openai.NotFoundError):
        create(stranger, store, file_ids=["file-any"])
    with database.transaction(stranger.project_id) as session:
        assert session.scalars(sa.select(FileBatch.id)).all() == []
        assert session.scalars(sa.select(FileOfBatch.file_id)).all() == []
        assert session.scalars(sa.select(Job.id)).all() == []
