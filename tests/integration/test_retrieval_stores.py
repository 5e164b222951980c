"""Vector stores over HTTP with the unmodified OpenAI client, indexed by the real job on the real Postgres."""

import time
from collections.abc import Callable, Iterator

import openai
import pytest
import sqlalchemy as sa

from services.retrieval.handlers import JOB_HANDLERS
from services.retrieval.tables import Document, PassageRow
from shared import jobs
from shared.database import Database
from shared.jobs import Job
from shared.jobs.runner import JobRunner
from shared.settings import Settings
from shared.storage import Storage
from shared.stored_bytes import stored_bytes
from tests.conftest import make_project
from tests.factories.quotas import grant
from tests.fakes.retrieval_parts import Parts

pytestmark = pytest.mark.stack


@pytest.fixture
def make_parts(settings: Settings, database: Database, storage: Storage) -> Iterator[Callable[[str], Parts]]:
    made: list[Parts] = []

    def make(project_id: str) -> Parts:
        made.append(Parts(settings, database, storage, project_id))
        return made[-1]

    yield make
    for parts in made:
        parts.http.close()


@pytest.fixture
def parts(make_parts: Callable[[str], Parts], project_id: str) -> Parts:
    return make_parts(project_id)


def test_indexes_files_and_finds_them(parts: Parts) -> None:
    files = parts.upload(
        naptime_md="# autovacuum_naptime\n\nThe delay between runs. Default one minute.",
        workers_md="# max_workers\n\nHow many processes may run at any one time.",
        page_html="<h1>wal_level</h1><p>What is written to the log.</p>",
    )
    store = parts.client.vector_stores.create(name="manual", file_ids=files, metadata={"a": "b"})
    assert (store.status, store.file_counts.in_progress) == ("in_progress", 3)
    assert parts.work(store.id) == ["succeeded"]
    store = parts.client.vector_stores.retrieve(store.id)
    assert (store.status, store.file_counts.completed, store.metadata) == ("completed", 3, {"a": "b"})
    assert store.usage_bytes > 0
    best = parts.client.vector_stores.search(store.id, query="autovacuum_naptime?", max_num_results=2).data[0]
    assert (best.filename, best.file_id) == ("naptime.md", files[0])
    assert best.content[0].text.startswith("The delay")
    assert 0 < best.score <= 1
    assert best.model_extra is not None
    assert best.model_extra["title"] == "autovacuum_naptime"
    content = parts.client.vector_stores.files.content(files[2], vector_store_id=store.id)
    assert [part.text for part in content] == ["What is written to the log."]


def test_fails_a_file_alone_and_says_why(parts: Parts) -> None:
    files = parts.upload(good_md="words", scan_pdf=b"%PDF-1.7", broken_txt=b"caf\xe9")
    store = parts.client.vector_stores.create(file_ids=files)
    assert parts.work(store.id) == ["succeeded"]
    counts = parts.client.vector_stores.retrieve(store.id).file_counts
    assert (counts.completed, counts.failed, counts.total) == (1, 2, 3)
    failed = parts.client.vector_stores.files.list(store.id, filter="failed")
    assert {one.last_error.code for one in failed if one.last_error} == {"unsupported_file", "invalid_file"}
    assert parts.ask(store.id, "words") == ["good.md"]


def test_makes_a_store_of_hundreds_of_files_in_few_transactions(parts: Parts) -> None:
    files = parts.upload(**{f"d{n}_md": f"# item_{n}\n\nThing number {n}." for n in range(200)})
    store = parts.client.vector_stores.create(file_ids=[*files, *files[:3]])
    assert store.file_counts.total == 200
    parts.work(store.id)
    assert parts.count(PassageRow, store.id) == 200
    assert parts.ask(store.id, "what is item_137", max_num_results=1) == ["d137.md"]


def test_counts_passages_as_stored_also_before_they_are_there(parts: Parts, admin_database: Database) -> None:
    def counted() -> dict[str, int]:
        with parts.database.transaction(parts.project_id) as session:
            return {kind: size for kind, size in stored_bytes(session, parts.project_id).items() if size}

    files = parts.upload(a_md="words of one file", b_md="and of another", broken_txt=b"caf\xe9")
    sent = len("words of one file") + len("and of another") + len(b"caf\xe9")
    assert counted() == {"files": sent}
    grant(admin_database, parts.project_id, stored_bytes=2 * sent)
    store = parts.client.vector_stores.create(file_ids=files)
    assert counted() == {"files": sent, "vector stores": sent}
    full: list[tuple[str, Callable[[], object]]] = [
        ("file_ids", lambda: parts.client.vector_stores.create(file_ids=files[:1])),
        ("file_id", lambda: parts.client.vector_stores.files.create(store.id, file_id=files[0])),
        ("file_ids", lambda: parts.client.vector_stores.file_batches.create(store.id, file_ids=files[:1])),
    ]
    for param, attach in full:
        with pytest.raises(openai.RateLimitError, match=f"vector stores: {sent}") as refused:
            attach()
        assert (refused.value.code, refused.value.param) == ("insufficient_quota", param)
    assert parts.work(store.id) == ["succeeded"]
    usage = parts.client.vector_stores.retrieve(store.id).usage_bytes
    assert counted() == {"files": sent, "vector stores": usage}, "nothing of the file that failed"
    parts.client.files.delete(files[0])
    assert counted()["vector stores"] == usage
    parts.client.vector_stores.delete(store.id)
    assert "vector stores" not in counted()


def test_indexes_nothing_twice_when_delivered_again(parts: Parts, project_id: str) -> None:
    files = parts.upload(a_md="one two", b_md="three four")
    store = parts.client.vector_stores.create(file_ids=files)
    [job] = parts.queued(store.id)
    runner = JobRunner(parts.wiring, JOB_HANDLERS, worker="test")
    assert [runner.run(project_id, job), runner.run(project_id, job)] == ["succeeded", "unclaimed"]
    assert (parts.count(PassageRow, store.id), parts.embedder.embedded) == (2, 2)


def test_goes_on_after_a_worker_broke_off(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_FILES_PER_TRANSACTION", "1")
    files = parts.upload(**{f"d{n}_md": f"text {n}" for n in range(4)})
    store = parts.client.vector_stores.create(file_ids=files)
    [job] = parts.queued(store.id)
    runner = JobRunner(parts.wiring, JOB_HANDLERS, worker="test")

    def shut_down_at_third() -> None:
        if parts.embedder.embedded == 2:
            runner.shutting_down.set()

    parts.embedder.before = shut_down_at_third
    assert runner.run(parts.project_id, job) == "handed over"
    assert 0 < parts.count(PassageRow, store.id) < 4
    assert parts.work(store.id) == ["succeeded"]
    assert (parts.count(Document, store.id), parts.embedder.embedded) == (4, 4)


def test_replaces_a_file_that_is_attached_again(parts: Parts) -> None:
    files = parts.upload(a_md="one. " * 100)
    store = parts.client.vector_stores.create(file_ids=files)
    parts.work(store.id)
    before = parts.count(PassageRow, store.id)
    parts.client.vector_stores.files.create(store.id, file_id=files[0], attributes={"year": 2024})
    parts.work(store.id)
    assert (parts.count(Document, store.id), parts.count(PassageRow, store.id)) == (1, before)


def test_leaves_out_a_file_detached_while_it_was_read(parts: Parts) -> None:
    files = parts.upload(keep_md="keep this", drop_md="drop this")
    store = parts.client.vector_stores.create(file_ids=files)

    def detach() -> None:
        parts.embedder.before = lambda: None
        parts.client.vector_stores.files.delete(files[1], vector_store_id=store.id)

    parts.embedder.before = detach
    assert parts.work(store.id) == ["succeeded"]
    assert parts.ask(store.id, "this") == ["keep.md"]
    assert parts.client.vector_stores.retrieve(store.id).file_counts.total == 1


def test_stops_waiting_for_files_whose_job_was_cancelled_before_it_ran(parts: Parts) -> None:
    store = parts.client.vector_stores.create(file_ids=parts.upload(a_md="one", b_md="two"))
    with parts.database.transaction(parts.project_id) as session:
        [job] = session.scalars(sa.select(Job).where(Job.subject_id == store.id))
        jobs.cancel(session, job.id)
    after = parts.client.vector_stores.retrieve(store.id)
    assert after.status == "completed"
    assert (after.file_counts.cancelled, after.file_counts.in_progress) == (2, 0)


def test_keeps_what_was_indexed_before_the_job_was_cancelled(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_FILES_PER_TRANSACTION", "1")
    store = parts.client.vector_stores.create(file_ids=parts.upload(a_md="one", b_md="two"))

    def cancel_and_be_heard() -> None:
        with parts.database.transaction(parts.project_id) as session:
            session.execute(sa.update(Job).where(Job.subject_id == store.id).values(cancel_requested=True))
        time.sleep(3 * parts.wiring.settings.heartbeat_seconds)

    parts.embedder.before = cancel_and_be_heard
    assert parts.work(store.id) == ["cancelled"]
    after = parts.client.vector_stores.retrieve(store.id)
    assert after.status == "completed"
    assert (after.file_counts.completed, after.file_counts.cancelled) == (1, 1)


def test_says_why_when_the_job_failed_for_good(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_EMBEDDER", "not-here")
    files = parts.upload(a_md="one")
    store = parts.client.vector_stores.create(file_ids=files)
    assert parts.work(store.id) == ["failed"]
    assert parts.client.vector_stores.retrieve(store.id).status == "completed"
    [file] = parts.client.vector_stores.files.list(store.id)
    assert file.status == "failed"
    assert file.last_error is not None
    assert "not-here" in file.last_error.message


def test_refuses_a_file_that_does_not_exist_and_keeps_nothing(parts: Parts) -> None:
    with pytest.raises(openai.NotFoundError, match="file-none"):
        parts.client.vector_stores.create(file_ids=["file-none"])
    assert parts.client.vector_stores.list().data == []


def test_takes_no_file_that_has_expired(parts: Parts, database: Database, project_id: str) -> None:
    gone, late, kept = parts.upload(gone_md="# a\n\nOne.", late_md="# b\n\nTwo.", kept_md="# c\n\nThree.")
    expire = sa.text("UPDATE files SET expires_at = now() WHERE id = :id")
    with database.transaction(project_id) as session:
        session.execute(expire, {"id": gone})
    store = parts.client.vector_stores.create(name="s", file_ids=[late, kept])
    with pytest.raises(openai.NotFoundError, match=gone):
        parts.client.vector_stores.files.create(store.id, file_id=gone)
    with pytest.raises(openai.NotFoundError, match=gone):
        parts.client.vector_stores.create(name="t", file_ids=[kept, gone])
    with database.transaction(project_id) as session:
        session.execute(expire, {"id": late})
    assert parts.work(store.id) == ["succeeded"]
    counts = parts.client.vector_stores.retrieve(store.id).file_counts
    assert (counts.completed, counts.failed) == (1, 1)
    error = parts.client.vector_stores.files.retrieve(late, vector_store_id=store.id).last_error
    assert error is not None
    assert "expired" in error.message


def test_pages_stores_and_files_to_their_end(parts: Parts) -> None:
    made = [parts.client.vector_stores.create(name=str(n)).id for n in range(5)]
    assert [store.id for store in parts.client.vector_stores.list(limit=2, order="asc")] == made
    files = parts.upload(**{f"d{n}_md": "x" for n in range(5)})
    store = parts.client.vector_stores.create(file_ids=files)
    assert sorted(one.id for one in parts.client.vector_stores.files.list(store.id, limit=2)) == sorted(files)


def test_deletes_stores_with_their_passages_and_keeps_the_files(parts: Parts) -> None:
    files = parts.upload(a_md="one")
    store = parts.client.vector_stores.create(file_ids=files)
    parts.work(store.id)
    assert parts.client.vector_stores.delete(store.id).deleted
    assert parts.count(PassageRow, store.id) == 0
    with pytest.raises(openai.NotFoundError):
        parts.client.vector_stores.retrieve(store.id)
    assert parts.client.vector_stores.create(file_ids=files).file_counts.total == 1


def test_shows_no_store_to_another_project(
    make_parts: Callable[[str], Parts], parts: Parts, admin_database: Database
) -> None:
    files = parts.upload(a_md="secret words")
    store = parts.client.vector_stores.create(file_ids=files)
    parts.work(store.id)
    stranger = make_parts(make_project(admin_database))
    with pytest.raises(openai.NotFoundError):
        stranger.ask(store.id, "secret")
    with pytest.raises(openai.NotFoundError, match=files[0]):
        stranger.client.vector_stores.create(file_ids=files)
