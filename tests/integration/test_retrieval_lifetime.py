"""A store's life with the unmodified OpenAI client: how it is told, listed, searched, changed, and when it ends."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
import sqlalchemy as sa

from services.retrieval.tables import Document, PassageRow
from shared.database import Database
from shared.jobs import Job
from shared.settings import Settings
from shared.storage import Storage
from tests.fakes.retrieval_parts import Parts

pytestmark = pytest.mark.stack
DAY = 24 * 3600.0
ONE_DAY: Any = {"anchor": "last_active_at", "days": 1}


@pytest.fixture
def parts(settings: Settings, database: Database, storage: Storage, project_id: str) -> Iterator[Parts]:
    made = Parts(settings, database, storage, project_id)
    yield made
    made.http.close()


def test_keeps_what_it_is_told_at_its_creation(parts: Parts) -> None:
    made = parts.client.vector_stores.create(
        name="handbook", description="The handbook.", metadata={"team": "a"}, expires_after=ONE_DAY
    )
    assert made == parts.client.vector_stores.retrieve(made.id)
    assert (made.object, made.status, made.name, made.metadata) == (
        "vector_store",
        "completed",
        "handbook",
        {"team": "a"},
    )
    assert made.to_dict()["description"] == "The handbook."
    assert made.expires_after is not None
    assert made.expires_after.to_dict() == ONE_DAY
    assert made.last_active_at is not None
    assert made.expires_at == made.last_active_at + DAY


def test_chunks_by_the_stores_own_strategy_unless_a_file_brings_one(parts: Parts) -> None:
    static: Any = {"type": "static", "static": {"max_chunk_size_tokens": 24, "chunk_overlap_tokens": 6}}
    [file] = parts.upload(a_md="one two three four. " * 30)
    store = parts.client.vector_stores.create(file_ids=[file], chunking_strategy=static)
    parts.work(store.id)
    read = parts.client.vector_stores.files.retrieve(file, vector_store_id=store.id)
    assert read.chunking_strategy is not None
    assert read.chunking_strategy.to_dict() == static
    with parts.database.transaction(parts.project_id) as session:
        sizes = session.scalars(sa.select(PassageRow.tokens).where(PassageRow.vector_store_id == store.id)).all()
    assert len(sizes) > 4
    assert max(sizes) <= 24


def test_changes_what_is_named_and_clears_what_is_null(parts: Parts) -> None:
    store = parts.client.vector_stores.create(name="a", metadata={"k": "v"}, expires_after=ONE_DAY)
    renamed = parts.client.vector_stores.update(store.id, name="b")
    assert (renamed.name, renamed.metadata, renamed.expires_at) == ("b", {"k": "v"}, store.expires_at)
    longer = parts.client.vector_stores.update(store.id, expires_after={"anchor": "last_active_at", "days": 3})
    assert longer.expires_at is not None
    assert store.expires_at is not None
    assert longer.expires_at - store.expires_at == 2 * DAY
    cleared = parts.client.vector_stores.update(store.id, expires_after=None, metadata=None)
    assert (cleared.expires_after, cleared.expires_at, cleared.metadata) == (None, None, {})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "x" * 257}, "name"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"metadata": {"k": 1}}, "metadata"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"expires_after": {"anchor": "created_at", "days": 1}}, "expires_after.anchor"),
        ({"expires_after": {"anchor": "last_active_at", "days": 0}}, "expires_after.days"),
        ({"expires_after": {"anchor": "last_active_at", "days": 366}}, "expires_after.days"),
        ({"expires_after": {"anchor": "last_active_at"}}, "expires_after.days"),
        ({"chunking_strategy": {"type": "static"}}, "chunking_strategy"),
        ({"chunking_strategy": {"type": "auto", "static": {"max_chunk_size_tokens": 100}}}, "chunking_strategy"),
        ({"chunking_strategy": {"type": "clever"}}, "chunking_strategy"),
        (
            {
                "chunking_strategy": {
                    "type": "static",
                    "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 51},
                }
            },
            "chunking_strategy",
        ),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_refuses_what_it_cannot_keep_and_names_it(parts: Parts, body: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        parts.client.vector_stores.create(extra_body=body)
    assert str(refused.value.param).startswith(param)
    assert parts.client.vector_stores.list().data == []


@pytest.mark.parametrize(
    "attributes",
    [
        {str(n): 1 for n in range(17)},
        {"k" * 65: 1},
        {"k": "v" * 513},
        {"k": [1]},
        {"k": None},
        {"k": 2**63},
    ],
)
def test_refuses_attributes_beyond_their_limits(parts: Parts, attributes: Any) -> None:
    files = parts.upload(a_md="one")
    store = parts.client.vector_stores.create(file_ids=files)
    with pytest.raises(openai.BadRequestError) as attached:
        parts.client.vector_stores.files.create(store.id, file_id=files[0], attributes=attributes)
    with pytest.raises(openai.BadRequestError) as updated:
        parts.client.vector_stores.files.update(files[0], vector_store_id=store.id, attributes=attributes)
    assert all(str(refused.value.param).split(".")[0] == "attributes" for refused in (attached, updated))


def test_updates_attributes_without_indexing_again(parts: Parts) -> None:
    [file] = parts.upload(a_md="one")
    store = parts.client.vector_stores.create(file_ids=[file])
    parts.work(store.id)
    full: dict[str, str | float | bool] = {f"{n:064}": "v" * 512 for n in range(13)}
    full |= {"yes": True, "half": 0.5, "many": 2**62}
    changed = parts.client.vector_stores.files.update(file, vector_store_id=store.id, attributes=full)
    assert (changed.status, changed.attributes) == ("completed", full)
    assert changed.attributes is not None
    assert changed.attributes["yes"] is True
    assert parts.queued(store.id) == []
    assert parts.ask(store.id, "one", filters={"type": "eq", "key": "yes", "value": True}) == ["a.md"]
    assert parts.ask(store.id, "one", filters={"type": "eq", "key": "yes", "value": 1}) == []
    cleared = parts.client.vector_stores.files.update(file, vector_store_id=store.id, attributes=None)
    assert cleared.attributes == {}


def test_merges_several_queries_into_one_ranking(parts: Parts) -> None:
    files = parts.upload(apples_md="apples grow", pears_md="pears grow", plums_md="plums fall")
    store = parts.client.vector_stores.create(file_ids=files).id
    parts.work(store)
    page = parts.client.vector_stores.search(store, query=["apples", "pears"], max_num_results=2)
    assert page.to_dict()["search_query"] == ["apples", "pears"]
    assert {one.filename for one in page.data} == {"apples.md", "pears.md"}
    alone = {one.filename: one.score for one in parts.client.vector_stores.search(store, query="pears").data}
    both = {one.filename: one.score for one in parts.client.vector_stores.search(store, query=["grow", "pears"]).data}
    assert both["pears.md"] >= alone["pears.md"]
    assert len(both) == 3
    best = max(alone.values())
    kept = parts.client.vector_stores.search(store, query="pears", ranking_options={"score_threshold": best})
    assert [one.filename for one in kept.data] == ["pears.md"]
    raw = parts.http.post(f"/v1/vector_stores/{store}/search", json={"query": "pears"}).json()
    assert (raw["object"], raw["has_more"], raw["next_page"]) == ("vector_store.search_results.page", False, None)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"query": ""}, "query"),
        ({"query": []}, "query"),
        ({"query": 1}, "query"),
        ({"query": ["q"] * 33}, "query"),
        ({"query": "q", "max_num_results": 0}, "max_num_results"),
        ({"query": "q", "max_num_results": 51}, "max_num_results"),
        ({"query": "q", "rewrite_query": True}, "rewrite_query"),
        ({"query": "q", "ranking_options": {"ranker": "best"}}, "ranking_options"),
        ({"query": "q", "ranking_options": {"score_threshold": 2}}, "ranking_options"),
        ({"query": "q", "filters": {"type": "eq", "key": "k"}}, "filters"),
        ({"query": "q", "nonsense": 1}, "nonsense"),
    ],
)
def test_refuses_a_search_that_makes_no_sense_and_names_the_field(
    parts: Parts, body: dict[str, Any], param: str
) -> None:
    store = parts.client.vector_stores.create().id
    with pytest.raises(openai.BadRequestError) as refused:
        parts.client.post(f"/vector_stores/{store}/search", body=body, cast_to=object)
    assert str(refused.value.param).split(".")[0] == param


def test_notes_its_use_once_a_minute(parts: Parts) -> None:
    store = parts.client.vector_stores.create(file_ids=parts.upload(a_md="one"))
    parts.work(store.id)
    parts.age(store.id, seconds=600)
    before = parts.client.vector_stores.retrieve(store.id).last_active_at
    parts.ask(store.id, "one")
    used = _last_used(parts, store.id)
    assert before is not None
    assert used.timestamp() - before > 500
    parts.ask(store.id, "one")
    assert _last_used(parts, store.id) == used


def test_answers_nothing_more_once_it_has_expired(parts: Parts) -> None:
    files = parts.upload(a_md="one")
    store = parts.client.vector_stores.create(name="old", file_ids=files, expires_after=ONE_DAY)
    assert parts.work(store.id)[0] == "succeeded"
    parts.age(store.id, seconds=DAY + 60)
    assert parts.client.vector_stores.retrieve(store.id).status == "expired"
    refused: list[openai.BadRequestError] = []
    for call in (
        lambda: parts.ask(store.id, "one"),
        lambda: parts.client.vector_stores.files.create(store.id, file_id=files[0]),
        lambda: parts.client.vector_stores.file_batches.create(store.id, file_ids=files),
        lambda: parts.client.vector_stores.update(store.id, expires_after={"anchor": "last_active_at", "days": 9}),
    ):
        with pytest.raises(openai.BadRequestError, match="expired") as found:
            call()
        refused.append(found.value)
    assert all(store.id in error.message and error.code == "vector_store_expired" for error in refused)
    assert parts.client.vector_stores.update(store.id, name="older").status == "expired"


def test_gives_its_passages_back_when_it_has_expired(parts: Parts) -> None:
    done, waiting = parts.upload(done_md="one", waiting_md="two")
    store = parts.client.vector_stores.create(file_ids=[done], expires_after=ONE_DAY)
    parts.work(store.id)
    assert parts.client.vector_stores.retrieve(store.id).usage_bytes > 0
    batch = parts.client.vector_stores.file_batches.create(store.id, file_ids=[waiting])
    parts.age(store.id, seconds=DAY + 60)
    [watch] = [job for job in parts.queued(store.id) if _kind(parts, job) == "retrieval.free_vector_store"]
    assert parts.run(watch) == "succeeded"
    after = parts.client.vector_stores.retrieve(store.id)
    assert (after.status, after.usage_bytes) == ("expired", 0)
    assert (after.file_counts.completed, after.file_counts.cancelled) == (1, 1)
    assert (parts.count(PassageRow, store.id), parts.count(Document, store.id)) == (0, 0)
    assert parts.client.vector_stores.file_batches.retrieve(batch.id, vector_store_id=store.id).status == "cancelled"
    assert parts.queued(store.id) == []
    assert list(parts.client.vector_stores.files.content(done, vector_store_id=store.id)) == []


def test_lives_on_when_it_was_used_in_time(parts: Parts) -> None:
    store = parts.client.vector_stores.create(file_ids=parts.upload(a_md="one"), expires_after=ONE_DAY).id
    parts.work(store)
    parts.age(store, seconds=DAY - 3600)
    parts.ask(store, "one")
    [watch] = parts.queued(store)
    assert parts.run(watch) == "unclaimed"
    with parts.database.transaction(parts.project_id) as session:
        session.execute(sa.update(Job).where(Job.id == watch).values(run_after=sa.func.now()))
    assert parts.run(watch) == "succeeded"
    assert parts.client.vector_stores.retrieve(store).status == "completed"
    [next_watch] = parts.queued(store)
    expires_at = parts.client.vector_stores.retrieve(store).expires_at
    with parts.database.transaction(parts.project_id) as session:
        assert int(session.get_one(Job, next_watch).run_after.timestamp()) == expires_at


def test_watches_each_moment_of_expiry_once(parts: Parts) -> None:
    store = parts.client.vector_stores.create(expires_after=ONE_DAY).id
    for name in ("a", "b"):
        parts.client.vector_stores.update(store, name=name, expires_after=ONE_DAY)
    assert len(parts.queued(store)) == 1


def test_cancels_what_is_ordered_for_a_store_that_is_deleted(parts: Parts) -> None:
    store = parts.client.vector_stores.create(file_ids=parts.upload(a_md="one"), expires_after=ONE_DAY).id
    assert len(parts.queued(store)) == 2
    assert parts.client.vector_stores.delete(store).to_dict() == {
        "id": store,
        "object": "vector_store.deleted",
        "deleted": True,
    }
    with parts.database.transaction(parts.project_id) as session:
        assert set(session.scalars(sa.select(Job.status).where(Job.subject_id == store))) == {"cancelled"}


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_lists_every_window_of_stores_and_files_in_order(parts: Parts, order: Any) -> None:
    stores = [parts.client.vector_stores.create(name=str(n)).id for n in range(5)]
    full = parts.client.vector_stores.create(file_ids=parts.upload(**{f"d{n}_md": "x" for n in range(5)})).id
    stores.append(full)
    all_stores = [one.id for one in parts.client.vector_stores.list(limit=2, order=order)]
    assert all_stores == (stores if order == "asc" else stores[::-1])
    all_files = [one.id for one in parts.client.vector_stores.files.list(full, limit=2, order=order)]
    assert len(all_files) == 5
    for path, whole in ((f"{full}/files", all_files), ("", all_stores)):
        _assert_windows(parts, f"/v1/vector_stores/{path}".rstrip("/"), whole, order)


def _assert_windows(parts: Parts, path: str, whole: list[str], order: str) -> None:
    for limit in (1, 3, 100):
        for n, cursor in enumerate(whole):
            for name, rest in (("after", whole[n + 1 :]), ("before", whole[:n])):
                page = parts.http.get(path, params={name: cursor, "limit": limit, "order": order}).json()
                expected = rest[:limit] if name == "after" else rest[-limit:]
                assert [one["id"] for one in page["data"]] == expected
                assert page["has_more"] == (len(rest) > limit)
                assert (page["first_id"], page["last_id"]) == (
                    (expected[0], expected[-1]) if expected else (None, None)
                )
    between = {"after": whole[0], "before": whole[-1], "limit": 2, "order": order}
    page = parts.http.get(path, params=between).json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == (whole[1:3], len(whole) > 4)


@pytest.mark.parametrize("cursor", ["after", "before"])
def test_names_a_cursor_that_is_not_in_the_list(parts: Parts, cursor: str) -> None:
    store = parts.client.vector_stores.create().id
    for path in ("/v1/vector_stores", f"/v1/vector_stores/{store}/files"):
        answer = parts.http.get(path, params={cursor: "nothing"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, cursor)


def _last_used(parts: Parts, store_id: str) -> Any:
    with parts.database.transaction(parts.project_id) as session:
        return session.execute(
            sa.text("SELECT last_active_at FROM vector_stores WHERE id = :id"), {"id": store_id}
        ).scalar_one()


def _kind(parts: Parts, job_id: str) -> str:
    with parts.database.transaction(parts.project_id) as session:
        return session.get_one(Job, job_id).kind
