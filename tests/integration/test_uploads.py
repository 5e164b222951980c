"""Uploads in parts, driven by the unmodified OpenAI client."""

import hashlib
import io
import random
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from services.data.handlers import JOB_HANDLERS, keep_file
from services.data.uploads import handlers
from services.data.uploads.schemas import CompleteUpload, CreateUpload
from services.data.uploads.tables import Upload, UploadPart
from shared import jobs
from shared.database import Database
from shared.files import File
from shared.jobs.runner import JobRunner
from shared.storage import BlobMissing
from shared.wiring import Wiring
from tests.conftest import make_project
from tests.fakes.processes import dispatcher, killed_at_the_end, wait_until
from tests.integration.test_data_files import client_of

pytestmark = pytest.mark.stack


@pytest.fixture
def http(wiring: Wiring, project_id: str) -> Iterator[TestClient]:
    client = client_of(wiring, project_id)
    yield client
    client.close()


@pytest.fixture
def client(http: TestClient) -> openai.OpenAI:
    return openai.OpenAI(api_key="any", base_url="http://testserver/v1", http_client=http, max_retries=0)


def begin(client: openai.OpenAI, size: int, **more: Any) -> str:
    order = {"filename": "big.jsonl", "mime_type": "text/jsonl", "purpose": "batch"} | more
    return client.uploads.create(bytes=size, **order).id


def part(client: openai.OpenAI, upload: str, data: bytes) -> str:
    return client.uploads.parts.create(upload, data=data).id


def test_puts_a_file_together_that_the_client_cut(client: openai.OpenAI, tmp_path: Path) -> None:
    content = random.Random(0).randbytes(1_000_003)
    path = tmp_path / "ünïcode.bin"
    path.write_bytes(content)
    done = client.uploads.upload_file_chunked(
        file=path,
        mime_type="application/octet-stream",
        purpose="user_data",
        part_size=300_000,
        md5=hashlib.md5(content).hexdigest(),
    )
    assert (done.object, done.status, done.bytes) == ("upload", "completed", len(content))
    assert done.file is not None
    assert (done.file.filename, done.file.bytes, done.file.purpose) == ("ünïcode.bin", len(content), "user_data")
    assert client.files.wait_for_processing(done.file.id).status == "processed"
    assert client.files.content(done.file.id).content == content


def test_takes_parts_in_any_order_and_at_once(client: openai.OpenAI, wiring: Wiring, project_id: str) -> None:
    pieces = [bytes([number]) * 50_000 for number in range(8)]
    upload = begin(client, 400_000)
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda piece: keep(wiring, project_id, upload, piece), reversed(pieces)))
    done = client.uploads.complete(upload, part_ids=ids[::-1])
    assert done.file is not None
    assert client.files.content(done.file.id).content == b"".join(pieces)


def keep(wiring: Wiring, project_id: str, upload: str, piece: bytes) -> str:
    return handlers.add_part(wiring, project_id, upload, io.BytesIO(piece)).id


def test_answers_a_part_as_openai_does(client: openai.OpenAI) -> None:
    upload = client.uploads.create(bytes=3, filename="f", mime_type="text/plain", purpose="assistants")
    assert (upload.object, upload.status, upload.file) == ("upload", "pending", None)
    assert upload.expires_at - upload.created_at == 3600
    sent = client.uploads.parts.create(upload.id, data=b"abc")
    assert (sent.object, sent.upload_id) == ("upload.part", upload.id)


def test_completes_twice_with_the_same_answer(client: openai.OpenAI) -> None:
    upload = begin(client, 6)
    ids = [part(client, upload, b"abc"), part(client, upload, b"def")]
    first = client.uploads.complete(upload, part_ids=ids)
    assert client.uploads.complete(upload, part_ids=ids) == first
    with pytest.raises(openai.BadRequestError, match="completed"):
        client.uploads.complete(upload, part_ids=ids[::-1])
    assert len(client.files.list().data) == 1


def test_makes_one_file_where_two_complete_at_once(client: openai.OpenAI, wiring: Wiring, project_id: str) -> None:
    upload = begin(client, 300_000)
    order = CompleteUpload(part_ids=[part(client, upload, b"x" * 300_000)])
    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(lambda _: handlers.complete_upload(wiring, project_id, upload, order)[1].id, range(4)))
    assert len(set(files)) == 1
    assert [file.id for file in client.files.list()] == files[:1]


def test_drops_the_parts_once_the_file_is_made(client: openai.OpenAI, wiring: Wiring, project_id: str) -> None:
    upload = begin(client, 6)
    ids = [part(client, upload, piece) for piece in (b"abc", b"def", b"abc")]
    client.uploads.complete(upload, part_ids=ids[:2])
    assert stored(wiring, project_id, b"abcdef")
    assert not stored(wiring, project_id, b"abc")
    assert parts_left(wiring, project_id) == 0


def test_keeps_a_parts_bytes_that_a_file_needs(client: openai.OpenAI) -> None:
    file = client.files.create(file=("same", b"abc"), purpose="batch")
    upload = begin(client, 6)
    part(client, upload, b"abc")
    assert client.uploads.cancel(upload).status == "cancelled"
    assert client.files.content(file.id).content == b"abc"


def test_holds_no_file_in_memory(wiring: Wiring, project_id: str, tmp_path: Path) -> None:
    """Four parts of 16 MB, put together, within 8 MB."""
    piece = tmp_path / "piece"
    piece.write_bytes(b"x" * 2**24)
    with wiring.database.transaction(project_id) as session:
        announced = CreateUpload(bytes=2**26, filename="f", mime_type="text/plain", purpose="batch")
        upload = handlers.create_upload(session, project_id, announced).id
    tracemalloc.start()
    try:
        ids = []
        for _ in range(4):
            with piece.open("rb") as content:
                ids.append(handlers.add_part(wiring, project_id, upload, content).id)
        _, file = handlers.complete_upload(wiring, project_id, upload, CompleteUpload(part_ids=ids))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert file.bytes == 2**26
    assert peak < 2**23


def test_makes_the_file_expire_as_ordered(client: openai.OpenAI) -> None:
    upload = begin(client, 3, expires_after={"anchor": "created_at", "seconds": 7200})
    done = client.uploads.complete(upload, part_ids=[part(client, upload, b"abc")])
    assert done.file is not None
    assert done.file.expires_at is not None
    assert 7195 <= done.file.expires_at - done.file.created_at <= 7205


@pytest.mark.parametrize("ended", ["cancelled", "expired", "completed"])
def test_refuses_by_name_what_an_ended_upload_cannot_do(
    client: openai.OpenAI, wiring: Wiring, project_id: str, ended: str
) -> None:
    upload = begin(client, 3)
    sent = part(client, upload, b"abc")
    if ended == "cancelled":
        client.uploads.cancel(upload)
    elif ended == "completed":
        client.uploads.complete(upload, part_ids=[sent])
    else:
        expire(wiring, project_id)
    calls = [
        lambda: client.uploads.cancel(upload),
        lambda: client.uploads.parts.create(upload, data=b"abc"),
        lambda: client.uploads.complete(upload, part_ids=["part_other"]),
    ]
    for call in calls:
        with pytest.raises(openai.BadRequestError, match=ended) as refused:
            call()
        assert refused.value.code == "upload_not_pending"


@pytest.mark.parametrize(
    ("parts", "order", "param"),
    [
        ([b"abc"], {}, "part_ids"),
        ([b"abc", b"def"], {"md5": "0" * 32}, "md5"),
        ([b"abc", b"def"], {"md5": "short"}, "md5"),
        ([b"abc", b"def"], {"part_ids": ["part_unknown"]}, "part_ids"),
        ([b"abc", b"def"], {"part_ids": []}, "part_ids"),
    ],
)
def test_refuses_parts_that_do_not_make_the_file_and_stays_open(
    client: openai.OpenAI, parts: list[bytes], order: dict[str, Any], param: str
) -> None:
    upload = begin(client, 6)
    ids = [part(client, upload, piece) for piece in parts]
    with pytest.raises(openai.BadRequestError) as refused:
        client.uploads.complete(upload, **({"part_ids": ids} | order))
    assert refused.value.param == param
    ids = [*ids, *(part(client, upload, piece) for piece in [b"def"][: 2 - len(ids)])]
    assert client.uploads.complete(upload, part_ids=ids).status == "completed"


def test_refuses_a_part_named_twice(client: openai.OpenAI) -> None:
    upload = begin(client, 6)
    sent = part(client, upload, b"abc")
    with pytest.raises(openai.BadRequestError, match="twice"):
        client.uploads.complete(upload, part_ids=[sent, sent])


@pytest.mark.parametrize("data", [b"", b"more than six bytes"])
def test_refuses_a_part_that_cannot_belong(client: openai.OpenAI, data: bytes) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        part(client, begin(client, 6), data)
    assert refused.value.param == "data"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bytes", 0),
        ("bytes", 2**50),
        ("purpose", "gossip"),
        ("filename", "two\nlines"),
        ("mime_type", ""),
        ("expires_after", {"anchor": "created_at", "seconds": 10}),
        ("colour", "blue"),
    ],
)
def test_refuses_an_upload_naming_the_field(http: TestClient, field: str, value: Any) -> None:
    order = {"bytes": 6, "filename": "f", "mime_type": "text/plain", "purpose": "batch"} | {field: value}
    answer = http.post("/v1/uploads", json=order)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(field)


def test_stops_reading_a_part_that_is_too_large(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_MAX_PART_BYTES", "100000")
    order = {"bytes": 10_000_000, "filename": "f", "mime_type": "text/plain", "purpose": "batch"}
    upload = http.post("/v1/uploads", json=order).json()["id"]
    for size in (110_000, 400_000):
        answer = http.post(f"/v1/uploads/{upload}/parts", files={"data": ("upload", b"x" * size)})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "file_too_large")


def test_counts_what_is_announced_as_stored(client: openai.OpenAI, admin_database: Database, project_id: str) -> None:
    with admin_database.system_transaction() as session:
        granted = sa.text("INSERT INTO project_quotas (project_id, stored_bytes) VALUES (:project, 10)")
        session.execute(granted, {"project": project_id})
    first = begin(client, 6)
    with pytest.raises(openai.RateLimitError, match="may store 10 bytes"):
        begin(client, 6)
    client.uploads.cancel(first)
    second = begin(client, 6)
    client.uploads.complete(second, part_ids=[part(client, second, b"abcdef")])
    with pytest.raises(openai.RateLimitError, match="may store 10 bytes"):
        begin(client, 6)


def test_hides_uploads_from_other_projects(client: openai.OpenAI, wiring: Wiring, admin_database: Database) -> None:
    upload = begin(client, 3)
    sent = part(client, upload, b"abc")
    stranger = client_of(wiring, make_project(admin_database))
    assert stranger.post(f"/v1/uploads/{upload}/cancel").status_code == 404
    assert stranger.post(f"/v1/uploads/{upload}/complete", json={"part_ids": [sent]}).status_code == 404
    assert stranger.post(f"/v1/uploads/{upload}/parts", files={"data": ("f", b"abc")}).status_code == 404
    stranger.close()
    assert client.uploads.complete(upload, part_ids=[sent]).status == "completed"


def test_sweeps_away_what_has_expired(
    client: openai.OpenAI, wiring: Wiring, project_id: str, stack_environment: dict[str, str], tmp_path: Path
) -> None:
    """The real dispatcher orders it, the job's handler does it: rows, parts and bytes go; what others need stays."""
    for name, content, lifetime in (("a", b"only", 3600), ("b", b"shared", 3600), ("c", b"shared", None)):
        keep_file(wiring, project_id, io.BytesIO(content), filename=name, purpose="batch", expires_after=lifetime)
    upload = begin(client, 6)
    part(client, upload, b"partly")
    expire(wiring, project_id)
    assert [file.filename for file in client.files.list()] == ["c"]
    # not a worker on the real queue: it would first do what every earlier test has left there
    with killed_at_the_end(dispatcher(stack_environment, tmp_path)):
        wait_until(lambda: bool(purges(wiring, project_id)), seconds=60)
    (purge,) = purges(wiring, project_id)
    assert JobRunner(wiring, JOB_HANDLERS, worker="tests").run(project_id, purge) == "succeeded"
    assert rows(wiring, project_id) == (["c"], ["expired"])
    assert [stored(wiring, project_id, content) for content in (b"only", b"shared", b"partly")] == [False, True, False]
    assert parts_left(wiring, project_id) == 0


def expire(wiring: Wiring, project_id: str) -> None:
    with wiring.database.transaction(project_id) as session:
        session.execute(sa.update(File).where(File.expires_at.is_not(None)).values(expires_at=sa.func.now()))
        session.execute(sa.update(Upload).values(expires_at=sa.func.now()))


def purges(wiring: Wiring, project_id: str) -> list[str]:
    with wiring.database.transaction(project_id) as session:
        found, _ = jobs.listing(session, kind="data.purge_expired")
        return [job.id for job in found]


def rows(wiring: Wiring, project_id: str) -> tuple[list[str], list[str]]:
    with wiring.database.transaction(project_id) as session:
        return list(session.scalars(sa.select(File.filename))), list(session.scalars(sa.select(Upload.status)))


def parts_left(wiring: Wiring, project_id: str) -> int:
    with wiring.database.transaction(project_id) as session:
        return session.scalars(sa.select(sa.func.count()).select_from(UploadPart)).one()


def stored(wiring: Wiring, project_id: str, content: bytes) -> bool:
    key = f"{project_id}/{hashlib.sha256(content).hexdigest()}"
    try:
        wiring.storage.open(project_id, key).close()
    except BlobMissing:
        return False
    return True
