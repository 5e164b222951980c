"""It keeps documents, indexes them and finds passages."""

import asyncio
import contextlib

import openai
import pytest

from tests.contract.client.conftest import collected, until, upload

covers = pytest.mark.covers


@covers("vector_stores.create", "vector_stores.retrieve")
def test_makes_a_store_with_every_field(client: openai.OpenAI, documents: dict[str, str]) -> None:
    made = client.vector_stores.create(
        name="made",
        file_ids=list(documents.values()),
        chunking_strategy={"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 20}},
        expires_after={"anchor": "last_active_at", "days": 3},
        metadata={"kind": "household"},
    )
    assert made.object == "vector_store"
    done = until(lambda: client.vector_stores.retrieve(made.id), lambda store: store.status == "completed")
    assert (done.name, done.metadata) == ("made", {"kind": "household"})
    counts = done.file_counts
    assert (counts.completed, counts.in_progress, counts.failed, counts.cancelled, counts.total) == (3, 0, 0, 0, 3)
    assert done.usage_bytes > 0
    assert done.expires_after is not None
    assert done.expires_after.days == 3
    assert done.last_active_at is not None
    assert done.expires_at == done.last_active_at + 3 * 86400
    [file, *_] = client.vector_stores.files.list(made.id)
    assert file.chunking_strategy is not None
    assert file.chunking_strategy.model_dump()["static"]["max_chunk_size_tokens"] == 200


@covers("vector_stores.create")
def test_takes_a_description(client: openai.OpenAI) -> None:
    made = client.vector_stores.create(name="described", description="what it is for")
    assert client.vector_stores.retrieve(made.id).model_dump()["description"] == "what it is for"


@covers("vector_stores.update")
def test_changes_a_store(client: openai.OpenAI) -> None:
    made = client.vector_stores.create(name="before", metadata={"a": "1"})
    changed = client.vector_stores.update(
        made.id, name="after", metadata={"b": "2"}, expires_after={"anchor": "last_active_at", "days": 1}
    )
    assert (changed.id, changed.name, changed.metadata) == (made.id, "after", {"b": "2"})
    assert client.vector_stores.retrieve(made.id).expires_after is not None


@covers("vector_stores.list")
def test_lists_to_the_end_in_both_orders_and_backwards(client: openai.OpenAI) -> None:
    made = [client.vector_stores.create(name=f"listed {number}").id for number in range(3)]
    newest_first = [store.id for store in client.vector_stores.list(limit=2)]
    oldest_first = [store.id for store in client.vector_stores.list(limit=2, order="asc")]
    assert newest_first == oldest_first[::-1]
    assert len(set(newest_first)) == len(newest_first)
    assert set(made) <= set(newest_first)
    before = client.vector_stores.list(before=newest_first[2], limit=10)
    assert [store.id for store in before.data] == newest_first[:2]


@covers("vector_stores.delete")
def test_deletes_a_store_but_not_its_files(client: openai.OpenAI, documents: dict[str, str]) -> None:
    made = client.vector_stores.create(name="gone", file_ids=[documents["lamp.md"]])
    deleted = client.vector_stores.delete(made.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (made.id, "vector_store.deleted", True)
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.retrieve(made.id)
    assert client.files.retrieve(documents["lamp.md"]).id == documents["lamp.md"]


@covers("vector_stores.search")
def test_finds_the_passage_that_answers(client: openai.OpenAI, store: str, documents: dict[str, str]) -> None:
    found = client.vector_stores.search(store, query="How long does the lamp shine?", max_num_results=2)
    assert found.object == "vector_store.search_results.page"
    best, *_ = found.data
    assert (best.filename, best.file_id) == ("lamp.md", documents["lamp.md"])
    assert "nine hours" in best.content[0].text
    assert best.content[0].type == "text"
    assert best.attributes is not None
    assert best.attributes["name"] == "lamp.md"
    scores = [result.score for result in found.data]
    assert scores == sorted(scores, reverse=True)
    assert len(found.data) <= 2
    assert found.model_dump()["search_query"] in (["How long does the lamp shine?"], "How long does the lamp shine?")


@covers("vector_stores.search")
def test_searches_for_several_questions_at_once(client: openai.OpenAI, store: str) -> None:
    found = client.vector_stores.search(store, query=["lid of the kettle", "hands of the clock"], max_num_results=3)
    assert {"kettle.md", "clock.md"} <= {result.filename for result in found}


@covers("vector_stores.search")
@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"type": "eq", "key": "name", "value": "lamp.md"}, {"lamp.md"}),
        ({"type": "ne", "key": "name", "value": "lamp.md"}, {"kettle.md", "clock.md"}),
        ({"type": "in", "key": "name", "value": ["lamp.md", "clock.md"]}, {"lamp.md", "clock.md"}),
        ({"type": "nin", "key": "name", "value": ["lamp.md", "clock.md"]}, {"kettle.md"}),
        ({"type": "gt", "key": "length", "value": 2}, {"clock.md"}),
        ({"type": "gte", "key": "length", "value": 2}, {"lamp.md", "clock.md"}),
        ({"type": "lt", "key": "length", "value": 2}, {"kettle.md"}),
        ({"type": "lte", "key": "length", "value": 2}, {"kettle.md", "lamp.md"}),
        (
            {
                "type": "or",
                "filters": [
                    {"type": "eq", "key": "name", "value": "kettle.md"},
                    {
                        "type": "and",
                        "filters": [
                            {"type": "eq", "key": "name", "value": "clock.md"},
                            {"type": "gt", "key": "length", "value": 1},
                        ],
                    },
                ],
            },
            {"kettle.md", "clock.md"},
        ),
    ],
)
def test_narrows_a_search_by_attributes(client: openai.OpenAI, store: str, filters: dict, expected: set) -> None:
    found = client.vector_stores.search(store, query="household", filters=filters, max_num_results=10)  # type: ignore[arg-type]
    assert {result.filename for result in found} == expected


@covers("vector_stores.search")
def test_leaves_out_what_scores_below_the_threshold(client: openai.OpenAI, store: str) -> None:
    every = client.vector_stores.search(store, query="lamp light", ranking_options={"ranker": "auto"}).data
    cut = client.vector_stores.search(
        store, query="lamp light", ranking_options={"ranker": "default-2024-11-15", "score_threshold": every[0].score}
    ).data
    assert [result.filename for result in cut] == [every[0].filename]


@covers("vector_stores.search")
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"filters": {"type": "like", "key": "name", "value": "x"}}, "filters"),
        ({"max_num_results": 0}, "max_num_results"),
        ({"ranking_options": {"ranker": "other"}}, "ranking_options"),
        ({"query": ""}, "query"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_refuses_by_name_what_it_cannot_honour(client: openai.OpenAI, store: str, body: dict, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.vector_stores.search(store, query="lamp", extra_body=body)
    assert (refused.value.param or "").startswith(param)


@covers("vector_stores.files.create", "vector_stores.files.poll", "vector_stores.files.retrieve")
def test_indexes_a_file_while_the_helper_polls(client: openai.OpenAI, documents: dict[str, str]) -> None:
    made = client.vector_stores.create(name="polled")
    attached = client.vector_stores.files.create(made.id, file_id=documents["clock.md"], attributes={"n": 1})
    assert (attached.id, attached.object) == (documents["clock.md"], "vector_store.file")
    assert attached.vector_store_id == made.id
    done = client.vector_stores.files.poll(documents["clock.md"], vector_store_id=made.id)
    assert done.status == "completed"
    assert done.usage_bytes > 0
    assert done.last_error is None
    assert done.attributes == {"n": 1}
    assert client.vector_stores.files.retrieve(done.id, vector_store_id=made.id) == done


@covers("vector_stores.files.upload", "vector_stores.files.upload_and_poll", "vector_stores.files.create_and_poll")
def test_uploads_and_indexes_in_one_call(client: openai.OpenAI) -> None:
    made = client.vector_stores.create(name="uploaded")
    done = client.vector_stores.files.upload_and_poll(vector_store_id=made.id, file=("chair.md", b"A chair of oak."))
    assert done.status == "completed"
    later = client.vector_stores.files.upload(vector_store_id=made.id, file=("table.md", b"A table of ash."))
    assert client.vector_stores.files.poll(later.id, vector_store_id=made.id).status == "completed"
    assert {result.filename for result in client.vector_stores.search(made.id, query="oak")} >= {"chair.md"}


@covers("vector_stores.files.create_and_poll")
def test_names_the_file_that_it_cannot_read(client: openai.OpenAI) -> None:
    made = client.vector_stores.create(name="broken")
    broken = upload(client, "broken.pdf", b"%PDF-1.7 this is no document", "assistants")
    failed = client.vector_stores.files.create_and_poll(broken, vector_store_id=made.id)
    assert failed.status == "failed"
    assert failed.last_error is not None
    assert failed.last_error.code in {"unsupported_file", "invalid_file"}
    assert client.vector_stores.retrieve(made.id).file_counts.failed == 1


@covers("vector_stores.files.list")
def test_lists_files_to_the_end_in_both_orders_and_by_status(client: openai.OpenAI, store: str) -> None:
    newest_first = [file.id for file in client.vector_stores.files.list(store, limit=1)]
    oldest_first = [file.id for file in client.vector_stores.files.list(store, limit=2, order="asc")]
    assert len(newest_first) == len(set(newest_first)) == 3
    assert newest_first == oldest_first[::-1]
    assert len(list(client.vector_stores.files.list(store, filter="completed"))) == 3
    assert list(client.vector_stores.files.list(store, filter="failed")) == []
    before = client.vector_stores.files.list(store, before=newest_first[1])
    assert [file.id for file in before.data] == newest_first[:1]


@covers("vector_stores.files.update")
def test_changes_the_attributes_that_searches_filter_by(client: openai.OpenAI, documents: dict[str, str]) -> None:
    made = client.vector_stores.create(name="attributes")
    file_id = documents["kettle.md"]
    client.vector_stores.files.create_and_poll(file_id, vector_store_id=made.id, attributes={"room": "hall"})
    changed = client.vector_stores.files.update(
        file_id, vector_store_id=made.id, attributes={"room": "kitchen", "size": 2.5, "old": True}
    )
    assert changed.attributes == {"room": "kitchen", "size": 2.5, "old": True}
    for room, expected in (("kitchen", 1), ("hall", 0)):
        filters = {"type": "eq", "key": "room", "value": room}
        assert len(client.vector_stores.search(made.id, query="kettle", filters=filters).data) == expected  # type: ignore[arg-type]


@covers("vector_stores.files.content")
def test_gives_the_text_of_a_file(client: openai.OpenAI, store: str, documents: dict[str, str]) -> None:
    parts = list(client.vector_stores.files.content(documents["clock.md"], vector_store_id=store))
    assert {part.type for part in parts} == {"text"}
    assert "made of brass" in " ".join(part.text or "" for part in parts)


@covers("vector_stores.files.delete")
def test_takes_a_file_out_of_a_store(client: openai.OpenAI, documents: dict[str, str]) -> None:
    made = client.vector_stores.create(name="detached")
    file_id = documents["lamp.md"]
    client.vector_stores.files.create_and_poll(file_id, vector_store_id=made.id)
    deleted = client.vector_stores.files.delete(file_id, vector_store_id=made.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (file_id, "vector_store.file.deleted", True)
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.files.retrieve(file_id, vector_store_id=made.id)
    assert client.vector_stores.search(made.id, query="lamp").data == []


@covers(
    "vector_stores.file_batches.create",
    "vector_stores.file_batches.retrieve",
    "vector_stores.file_batches.poll",
    "vector_stores.file_batches.list_files",
)
def test_indexes_a_batch_of_files(client: openai.OpenAI, documents: dict[str, str]) -> None:
    made = client.vector_stores.create(name="batch")
    batch = client.vector_stores.file_batches.create(
        made.id, files=[{"file_id": file_id, "attributes": {"name": name}} for name, file_id in documents.items()]
    )
    assert batch.object == "vector_store.files_batch"
    assert (batch.vector_store_id, batch.file_counts.total) == (made.id, 3)
    done = client.vector_stores.file_batches.poll(batch.id, vector_store_id=made.id)
    assert (done.status, done.file_counts.completed) == ("completed", 3)
    assert client.vector_stores.file_batches.retrieve(batch.id, vector_store_id=made.id) == done
    files = list(client.vector_stores.file_batches.list_files(batch.id, vector_store_id=made.id, limit=1))
    assert {file.id for file in files} == set(documents.values())
    assert len(files) == 3
    assert {(file.attributes or {}).get("name") for file in files} == set(documents)


@covers("vector_stores.file_batches.create_and_poll", "vector_stores.file_batches.upload_and_poll")
def test_indexes_batches_through_the_helpers(client: openai.OpenAI, documents: dict[str, str]) -> None:
    made = client.vector_stores.create(name="batches")
    done = client.vector_stores.file_batches.create_and_poll(made.id, file_ids=list(documents.values())[:2])
    assert done.file_counts.completed == 2
    done = client.vector_stores.file_batches.upload_and_poll(
        made.id, files=[("a.md", b"The first note."), ("b.md", b"The second note.")]
    )
    assert (done.status, done.file_counts.completed) == ("completed", 2)
    assert client.vector_stores.retrieve(made.id).file_counts.completed == 4


@covers("vector_stores.file_batches.cancel")
def test_cancels_a_batch(client: openai.OpenAI) -> None:
    made = client.vector_stores.create(name="cancelled")
    files = [upload(client, f"{number}.md", b"Note %d. " % number * 500, "assistants") for number in range(8)]
    batch = client.vector_stores.file_batches.create(made.id, file_ids=files)
    with contextlib.suppress(openai.BadRequestError):  # it may be quicker than we are
        client.vector_stores.file_batches.cancel(batch.id, vector_store_id=made.id)
    done = client.vector_stores.file_batches.poll(batch.id, vector_store_id=made.id)
    counts = done.file_counts
    assert done.status in {"cancelled", "completed"}
    assert counts.in_progress == 0
    assert counts.cancelled + counts.completed == counts.total == 8
    assert (done.status == "cancelled") == (counts.cancelled > 0)


@covers("vector_stores.retrieve")
def test_knows_nothing_of_unknown_ids(client: openai.OpenAI, store: str) -> None:
    stores = client.vector_stores
    for call in (
        lambda: stores.retrieve("vs_unknown"),
        lambda: stores.update("vs_unknown", name="x"),
        lambda: stores.delete("vs_unknown"),
        lambda: stores.search("vs_unknown", query="x"),
        lambda: stores.files.list("vs_unknown"),
        lambda: stores.files.retrieve("file-unknown", vector_store_id=store),
        lambda: stores.files.update("file-unknown", vector_store_id=store, attributes={}),
        lambda: stores.files.content("file-unknown", vector_store_id=store),
        lambda: stores.files.delete("file-unknown", vector_store_id=store),
        lambda: stores.file_batches.retrieve("vsfb_unknown", vector_store_id=store),
        lambda: stores.file_batches.cancel("vsfb_unknown", vector_store_id=store),
        lambda: stores.file_batches.list_files("vsfb_unknown", vector_store_id=store),
    ):
        with pytest.raises(openai.NotFoundError):
            call()


@covers("vector_stores.list")
def test_lists_for_the_asynchronous_client(client: openai.OpenAI, async_client: openai.AsyncOpenAI, store: str) -> None:
    async def ids() -> list[str]:
        async with async_client as opened:
            return [found.id for found in await collected(opened.vector_stores.list(limit=2))]

    assert store in asyncio.run(ids())
