"""Files over HTTP, driven by the unmodified OpenAI client where it can."""

import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import openai
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from services.data.app import create_data_app
from services.data.errors import UploadRefused
from services.data.handlers import delete_file, keep_file, open_file
from services.data.settings import DataSettings
from shared import files
from shared.database import Database, after_commit
from shared.storage import BlobMissing
from shared.web import Caller
from shared.wiring import Wiring
from tests.conftest import make_project
from tests.fakes.access import always

pytestmark = pytest.mark.stack


@pytest.fixture
def http(wiring: Wiring, project_id: str) -> Iterator[TestClient]:
    client = client_of(wiring, project_id)
    yield client
    client.close()


@pytest.fixture
def client(http: TestClient) -> openai.OpenAI:
    return openai.OpenAI(api_key="any", base_url="http://testserver/v1", http_client=http, max_retries=0)


def client_of(wiring: Wiring, project_id: str) -> TestClient:
    """The data service's app, for a caller of this project; the tests' own parts behind it."""
    who = Caller(project_id, "tests", "org_tests", "key_tests", ("admin",), "req_tests")
    app = create_data_app(always(who))
    app.state.wiring = wiring  # entered without its lifespan, the client builds and closes no wiring of its own
    return TestClient(app)


def test_gives_back_the_bytes_it_was_given(client: openai.OpenAI) -> None:
    content = bytes(range(256)) * 1000
    sent = client.files.create(file=("ünïcode name.bin", content), purpose="user_data")
    assert (sent.object, sent.bytes, sent.status, sent.purpose) == ("file", 256_000, "processed", "user_data")
    assert sent.filename == "ünïcode name.bin"
    assert client.files.content(sent.id).content == content
    assert client.files.retrieve(sent.id) == sent


def test_offers_a_download_that_no_browser_shows(http: TestClient, client: openai.OpenAI) -> None:
    page = b"<script>alert(1)</script>"
    sent = client.files.create(file=("../<ü>.html", page, "text/html"), purpose="user_data")
    measured, got = (getattr(http, method)(f"/v1/files/{sent.id}/content") for method in ("head", "get"))
    assert (measured.status_code, measured.content, got.content) == (200, b"", page)
    for answer in (measured, got):
        assert answer.headers["content-length"] == str(len(page))
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''..%2F%3C%C3%BC%3E.html"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert http.head("/v1/files/file-other/content").status_code == 404


def test_says_that_a_stored_file_is_processed(client: openai.OpenAI) -> None:
    sent = client.files.create(file=("train.jsonl", b"{}"), purpose="fine-tune")
    assert client.files.wait_for_processing(sent.id, poll_interval=0.01).status == "processed"


def test_keeps_a_path_as_the_files_name(client: openai.OpenAI) -> None:
    assert client.files.create(file=("guides/setup.md", b"x"), purpose="assistants").filename == "guides/setup.md"


def test_lists_by_pages_and_purpose(client: openai.OpenAI) -> None:
    ids = [client.files.create(file=(f"{n}.txt", b"x"), purpose="assistants").id for n in range(5)]
    other = client.files.create(file=("train.jsonl", b"{}"), purpose="fine-tune").id
    assert [file.id for file in client.files.list(limit=2, purpose="assistants")] == ids[::-1]
    assert [file.id for file in client.files.list(limit=4, order="asc")] == [*ids, other]
    first = client.files.list(limit=2)
    assert (len(first.data), first.has_more) == (2, True)


def test_lists_up_to_ten_thousand_files_unless_asked_for_fewer(
    client: openai.OpenAI, wiring: Wiring, project_id: str
) -> None:
    many = (
        "INSERT INTO files (id, project_id, filename, purpose, bytes, sha256, blob_key) "
        "SELECT 'file-many' || n, :project, 'f', 'batch', 1, '', '' FROM generate_series(1, 1200) AS n"
    )
    with wiring.database.transaction(project_id) as session:
        session.execute(sa.text(many), {"project": project_id})
    page = client.files.list()
    assert (len(page.data), page.has_more) == (1200, False)


def test_deletes_the_bytes_with_their_last_file(client: openai.OpenAI, wiring: Wiring, project_id: str) -> None:
    one, other = (client.files.create(file=(name, b"same"), purpose="batch").id for name in ("a", "b"))
    blob = wiring.storage.put_bytes(project_id, b"same")
    assert client.files.delete(one).deleted
    assert client.files.content(other).content == b"same"
    client.files.delete(other)
    with pytest.raises(BlobMissing):
        wiring.storage.open(project_id, blob.key)
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(one)


def test_hides_files_from_other_projects(client: openai.OpenAI, wiring: Wiring, admin_database: Database) -> None:
    sent = client.files.create(file=("secret.txt", b"secret"), purpose="assistants").id
    stranger = client_of(wiring, make_project(admin_database))
    assert stranger.get(f"/v1/files/{sent}").status_code == 404
    assert stranger.get(f"/v1/files/{sent}/content").status_code == 404
    assert stranger.delete(f"/v1/files/{sent}").status_code == 404
    assert stranger.get("/v1/files").json()["data"] == []
    stranger.close()


def test_forgets_a_file_when_it_expires(client: openai.OpenAI, wiring: Wiring, project_id: str) -> None:
    sent = client.files.create(
        file=("f", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert sent.expires_at is not None
    assert 3595 <= sent.expires_at - sent.created_at <= 3601
    with wiring.database.transaction(project_id) as session:
        session.execute(sa.text("UPDATE files SET expires_at = now() WHERE id = :id"), {"id": sent.id})
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(sent.id)


@pytest.mark.parametrize(
    ("form", "file", "param"),
    [
        ({"purpose": "assistants"}, None, "file"),
        ({}, ("f", b"x"), "purpose"),
        ({"purpose": "gossip"}, ("f", b"x"), "purpose"),
        ({"purpose": "batch", "expires_after[anchor]": "now", "expires_after[seconds]": "9"}, ("f", b"x"), "expires_"),
        ({"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "9"}, ("f", b"x"), "ex"),
        ({"purpose": "batch"}, ("f" * 600, b"x"), "file"),
        ({"purpose": "batch", "colour": "blue"}, ("f", b"x"), "colour"),
    ],
)
def test_refuses_uploads_with_the_reason(
    http: TestClient, form: dict[str, str], file: tuple[str, bytes] | None, param: str
) -> None:
    # without a file httpx would not send multipart, so the form's fields are sent as parts
    parts = [(name, (None, value)) for name, value in form.items()]
    answer = http.post("/v1/files", files=[*parts, *([("file", file)] if file else [])])
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["param"].startswith(param)
    assert http.get("/v1/files").json()["data"] == []


def test_stops_reading_an_upload_that_is_too_large(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_MAX_UPLOAD_BYTES", "100000")
    assert DataSettings().max_upload_bytes == 100_000
    answer = http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("f", b"x" * 110_000)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "file_too_large")
    answer = http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("f", b"x" * 400_000)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "file_too_large")
    assert http.get("/v1/files").json()["data"] == []


def test_refuses_a_file_name_that_would_not_print(wiring: Wiring, project_id: str) -> None:
    for name in ("bell\x07", "two\nlines", ""):
        with pytest.raises(UploadRefused, match="printable"):
            keep_file(wiring, project_id, io.BytesIO(b"x"), filename=name, purpose="batch", expires_after=None)


def test_stores_bytes_anew_that_a_deletion_took_in_between(
    wiring: Wiring, project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = files.lock_blobs

    def delete_then_lock(session: Session, keys: list[str]) -> None:
        for key in keys:
            wiring.storage.delete(project_id, key)
        lock(session, keys)

    monkeypatch.setattr(files, "lock_blobs", delete_then_lock)
    row = keep_file(wiring, project_id, io.BytesIO(b"bytes"), filename="f", purpose="batch", expires_after=None)
    assert b"".join(open_file(wiring, project_id, row.id)[1]) == b"bytes"


@pytest.mark.parametrize("fails", ["the caller", "the connection"])
def test_keeps_the_bytes_of_a_file_whose_deletion_does_not_commit(wiring: Wiring, project_id: str, fails: str) -> None:
    row = keep_file(wiring, project_id, io.BytesIO(b"bytes"), filename="f", purpose="batch", expires_after=None)

    def delete() -> None:
        with wiring.database.transaction(project_id) as session:
            files.remove_file(session, wiring.storage, files.get_file(session, row.id))
            session.flush()
            if fails == "the caller":
                raise KeyError("what comes after it")
            number = session.scalar(sa.text("SELECT pg_backend_pid()"))
            with wiring.database.system_transaction() as other:
                other.execute(sa.text("SELECT pg_terminate_backend(:number, 5000)"), {"number": number})

    with pytest.raises(KeyError if fails == "the caller" else OperationalError):
        delete()
    assert b"".join(open_file(wiring, project_id, row.id)[1]) == b"bytes"
    delete_file(wiring, project_id, row.id)
    with pytest.raises(BlobMissing):
        wiring.storage.open(project_id, row.blob_key)


def test_keeps_bytes_that_are_named_again_before_they_are_deleted(wiring: Wiring, project_id: str) -> None:
    first, second = (
        partial(keep_file, wiring, project_id, io.BytesIO(b"bytes"), filename=name, purpose="batch", expires_after=None)
        for name in ("first", "second")
    )
    row, again = first(), list[files.File]()
    with wiring.database.transaction(project_id) as session:
        after_commit(session, lambda _database: again.append(second()))
        files.remove_file(session, wiring.storage, files.get_file(session, row.id))
    assert b"".join(open_file(wiring, project_id, again[0].id)[1]) == b"bytes"


def test_a_deletion_is_done_although_the_storage_fails(
    wiring: Wiring, project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: str) -> None:
        raise OSError("the bucket is away")

    row = keep_file(wiring, project_id, io.BytesIO(b"bytes"), filename="f", purpose="batch", expires_after=None)
    monkeypatch.setattr(type(wiring.storage), "delete", fails)
    delete_file(wiring, project_id, row.id)
    with pytest.raises(files.FileMissing):
        open_file(wiring, project_id, row.id)


def test_keeps_equal_bytes_whole_while_many_come_and_go(wiring: Wiring, project_id: str) -> None:
    def come_and_go(number: int) -> None:
        for _ in range(15):
            row = keep_file(
                wiring, project_id, io.BytesIO(b"same"), filename=str(number), purpose="batch", expires_after=None
            )
            assert b"".join(open_file(wiring, project_id, row.id)[1]) == b"same"
            delete_file(wiring, project_id, row.id)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(come_and_go, range(4)))
    blob = wiring.storage.put_bytes(project_id, b"other")
    with pytest.raises(BlobMissing):
        wiring.storage.open(project_id, blob.key.replace(blob.sha256, hashlib.sha256(b"same").hexdigest()))


def test_stores_what_a_service_writes_in_its_own_transaction(wiring: Wiring, project_id: str) -> None:
    with wiring.database.transaction(project_id) as session:
        row = files.store_file(
            session,
            wiring.storage,
            project_id,
            filename="results.csv",
            purpose="fine-tune-results",
            chunks=(chunk for chunk in (b"step,", b"train_loss\n")),
        )
    assert (row.bytes, row.status, row.purpose) == (16, "processed", "fine-tune-results")
    assert b"".join(open_file(wiring, project_id, row.id)[1]) == b"step,train_loss\n"


def test_leaves_no_file_where_the_services_transaction_fails(wiring: Wiring, project_id: str) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"), wiring.database.transaction(project_id) as session:
        files.store_file(session, wiring.storage, project_id, filename="f", purpose="batch_output", chunks=broken())
    with wiring.database.transaction(project_id) as session:
        assert session.scalars(sa.select(files.File)).all() == []


def test_knows_every_column_that_names_stored_bytes(admin_database: Database) -> None:
    query = "SELECT table_name, column_name FROM information_schema.columns WHERE column_name LIKE '%blob\\_key'"
    with admin_database.system_transaction() as session:
        found = {tuple(row) for row in session.execute(sa.text(query))}
    assert found <= set(files.BLOB_COLUMNS), "name the column there, or its bytes go with the last equal file"


def test_refuses_a_body_that_is_no_form(http: TestClient) -> None:
    assert http.post("/v1/files", json={"purpose": "batch"}).status_code == 400
    broken = http.post("/v1/files", content=b"--x\r\n", headers={"content-type": "multipart/form-data"})
    assert broken.status_code == 400
