"""It keeps files, and files that come in parts."""

import asyncio
import hashlib
import time
from pathlib import Path

import openai
import pytest

from tests.contract.client.conftest import collected, json_lines, sums, upload

covers = pytest.mark.covers


@covers("files.create", "files.retrieve", "files.content")
def test_gives_back_what_was_uploaded(client: openai.OpenAI) -> None:
    content = sums(1000, 3)
    made = client.files.create(file=("täglich.jsonl", content), purpose="fine-tune")
    assert made.id.startswith("file-")
    assert (made.object, made.bytes, made.filename) == ("file", len(content), "täglich.jsonl")
    assert made.purpose == "fine-tune"
    assert made.status in {"uploaded", "processed"}
    assert abs(made.created_at - time.time()) < 300
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == content


@covers("files.retrieve_content")
def test_gives_text_back_to_the_deprecated_method(client: openai.OpenAI) -> None:
    file_id = upload(client, "old.txt", b"as it was", "user_data")
    with pytest.warns(DeprecationWarning, match="content"):
        assert client.files.retrieve_content(file_id) == "as it was"


@covers("files.create")
@pytest.mark.parametrize("purpose", ["assistants", "vision", "user_data", "evals"])
def test_takes_every_purpose(client: openai.OpenAI, purpose: str) -> None:
    made = client.files.create(file=("a.txt", purpose.encode()), purpose=purpose)  # type: ignore[arg-type]
    assert made.purpose == purpose


@covers("files.create")
def test_keeps_the_expiry_that_was_asked_for(client: openai.OpenAI) -> None:
    made = client.files.create(
        file=("a.txt", b"soon gone"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert made.expires_at == made.created_at + 3600


@covers("files.wait_for_processing")
def test_is_processed_when_the_helper_waits(client: openai.OpenAI) -> None:
    file_id = upload(client, "wait.jsonl", sums(1100, 2))
    assert client.files.wait_for_processing(file_id, poll_interval=0.1, max_wait_seconds=60).status == "processed"


@covers("files.list")
def test_lists_to_the_end_in_both_orders(client: openai.OpenAI) -> None:
    made = [upload(client, f"{number}.txt", b"page %d" % number, "vision") for number in range(5)]
    newest_first = [file.id for file in client.files.list(purpose="vision", limit=2)]
    oldest_first = [file.id for file in client.files.list(purpose="vision", limit=2, order="asc")]
    assert newest_first == oldest_first[::-1]
    assert len(set(newest_first)) == len(newest_first)
    assert set(made) <= set(newest_first)
    page = client.files.list(purpose="vision", limit=2)
    assert (len(page.data), page.has_more) == (2, True)
    assert page.first_id == page.data[0].id  # type: ignore[attr-defined]
    assert page.last_id == page.data[-1].id  # type: ignore[attr-defined]


@covers("files.list")
def test_lists_to_the_end_for_the_asynchronous_client(client: openai.OpenAI, async_client: openai.AsyncOpenAI) -> None:
    for number in range(3):
        upload(client, f"{number}.txt", b"async %d" % number, "evals")

    async def ids() -> list[str]:
        async with async_client as opened:
            return [file.id for file in await collected(opened.files.list(purpose="evals", limit=1))]

    listed = asyncio.run(ids())
    assert len(listed) >= 3
    assert len(set(listed)) == len(listed)


@covers("files.delete")
def test_deletes_and_then_knows_it_no_more(client: openai.OpenAI) -> None:
    file_id = upload(client, "gone.txt", b"gone", "user_data")
    deleted = client.files.delete(file_id)
    assert (deleted.id, deleted.object, deleted.deleted) == (file_id, "file", True)
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(file_id)


@covers("files.create")
def test_refuses_by_name_what_it_cannot_honour(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.create(file=("a.txt", b"a"), purpose="no-such-purpose")  # type: ignore[arg-type]
    assert refused.value.param == "purpose"
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.create(file=("a.txt", b"a"), purpose="user_data", extra_body={"colour": "red"})
    assert refused.value.param == "colour"


@covers("uploads.create", "uploads.parts.create", "uploads.complete")
def test_joins_an_upload_in_the_order_of_its_parts(client: openai.OpenAI) -> None:
    halves = sums(1200, 2), sums(1300, 3)
    whole = b"".join(halves)
    started = client.uploads.create(
        bytes=len(whole), filename="joined.jsonl", mime_type="application/jsonl", purpose="fine-tune"
    )
    assert (started.object, started.status, started.bytes) == ("upload", "pending", len(whole))
    assert started.expires_at > started.created_at
    assert (started.filename, started.purpose, started.file) == ("joined.jsonl", "fine-tune", None)
    second = client.uploads.parts.create(started.id, data=halves[1])
    first = client.uploads.parts.create(started.id, data=halves[0])
    assert (first.object, first.upload_id) == ("upload.part", started.id)
    done = client.uploads.complete(
        started.id, part_ids=[first.id, second.id], md5=hashlib.md5(whole, usedforsecurity=False).hexdigest()
    )
    assert done.status == "completed"
    assert done.file is not None
    assert client.files.content(done.file.id).read() == whole


@covers("uploads.upload_file_chunked")
def test_takes_a_file_in_chunks(client: openai.OpenAI, tmp_path: Path) -> None:
    rows = json_lines([{"text": f"line {number}"} for number in range(4000)])
    path = tmp_path / "chunked.jsonl"
    path.write_bytes(rows)
    done = client.uploads.upload_file_chunked(
        file=path, mime_type="application/jsonl", purpose="batch", part_size=len(rows) // 4
    )
    assert done.status == "completed"
    assert done.file is not None
    assert done.file.bytes == len(rows)
    assert client.files.content(done.file.id).read() == rows


@covers("uploads.cancel")
def test_takes_no_part_after_a_cancel(client: openai.OpenAI) -> None:
    started = client.uploads.create(bytes=3, filename="a.txt", mime_type="text/plain", purpose="user_data")
    assert client.uploads.cancel(started.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError):
        client.uploads.parts.create(started.id, data=b"abc")
    with pytest.raises(openai.BadRequestError):
        client.uploads.complete(started.id, part_ids=[])


@covers("uploads.complete")
def test_refuses_to_complete_what_does_not_add_up(client: openai.OpenAI) -> None:
    started = client.uploads.create(bytes=4, filename="a.txt", mime_type="text/plain", purpose="user_data")
    part = client.uploads.parts.create(started.id, data=b"abc")
    with pytest.raises(openai.BadRequestError):
        client.uploads.complete(started.id, part_ids=[part.id])
    with pytest.raises(openai.BadRequestError):
        client.uploads.complete(started.id, part_ids=["part_unknown"])
