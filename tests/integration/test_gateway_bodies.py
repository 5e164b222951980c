"""Bodies against their limits, sent over real sockets: what is refused is refused early, and memory stays flat."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
import uvicorn

from services.gateway.app import create_app
from shared.database import Database
from shared.settings import Settings
from tests.factories.gateway import bearer, new_key
from tests.fakes.processes import wait_until

pytestmark = pytest.mark.stack
JSON_BYTES, UPLOAD_BYTES = 1 << 20, 4 << 20
PIECE = b"x" * (1 << 16)
GIGABYTES = 4 * 2**30


@pytest.fixture(scope="module")
def address(settings: Settings) -> Iterator[str]:
    own = settings.model_copy(update={"max_json_bytes": JSON_BYTES, "max_upload_bytes": UPLOAD_BYTES})
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(create_app(own), log_config=None, timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        wait_until(lambda: server.started, seconds=20)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def http(address: str, database: Database, settings: Settings, project_id: str) -> Iterator[httpx.Client]:
    headers = bearer(new_key(database, settings, project_id))
    with httpx.Client(base_url=address, headers=headers, timeout=60, trust_env=False) as client:
        yield client


class Endless:
    """Gigabytes that exist only as they are asked for."""

    def __init__(self, head: bytes = b"") -> None:
        self.sent = 0
        self._head = head

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        while self.sent < GIGABYTES:
            self.sent += len(PIECE)
            yield PIECE


def part(name: str) -> bytes:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n\r\n'.encode()


@pytest.mark.parametrize(
    ("path", "kind", "head", "most"),
    [
        ("prompts", "application/json", b'{"name": "', JSON_BYTES),
        ("prompts", "text/plain", b"", JSON_BYTES),
        ("files", "multipart/form-data; boundary=b", part("file"), UPLOAD_BYTES),
        ("nothing/here", "application/json", b"[", JSON_BYTES),
    ],
)
def test_stops_reading_a_body_without_end(http: httpx.Client, path: str, kind: str, head: bytes, most: int) -> None:
    endless = Endless(head)
    before = psutil.Process(os.getpid()).memory_info().rss
    answer = http.post(f"/v1/{path}", content=iter(endless), headers={"content-type": kind})
    grown = psutil.Process(os.getpid()).memory_info().rss - before
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large"), answer.text
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-request-id"].startswith("req_")
    # what the client could still push into the sockets' buffers is a few megabytes, on any machine
    assert endless.sent < most + (64 << 20)
    assert grown < 256 << 20


@pytest.mark.parametrize(("kind", "most"), [("application/json", JSON_BYTES), ("multipart/form-data", UPLOAD_BYTES)])
def test_refuses_an_announced_size_without_reading(address: str, http: httpx.Client, kind: str, most: int) -> None:
    host, port = address.removeprefix("http://").split(":")
    head = f"POST /v1/files HTTP/1.1\r\nHost: {host}\r\nAuthorization: {http.headers['authorization']}\r\n"
    head += f"Content-Type: {kind}; boundary=b\r\nContent-Length: {most * 1000}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as wire:
        wire.sendall(head.encode())
        answer = wire.makefile("rb").read()  # ends because the server closes, although not a byte of body was sent
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "body_too_large"


def test_takes_bodies_up_to_the_limits(http: httpx.Client) -> None:
    text = "x" * (JSON_BYTES - 200)
    made = http.post("/v1/prompts", json={"name": "p", "spec": {"instruction": text}})
    assert made.status_code == 200, made.text[:300]
    upload = {"file": ("f.txt", b"x" * UPLOAD_BYTES)}
    kept = http.post("/v1/files", files=upload, data={"purpose": "user_data"})
    assert (kept.status_code, kept.json()["bytes"]) == (200, UPLOAD_BYTES)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity"])
def test_unpacks_nothing(http: httpx.Client, encoding: str) -> None:
    answer = http.post("/v1/prompts", content=b"\x1f\x8b", headers={"content-encoding": encoding})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_encoding")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[" * 1000, "more than 64 levels"),
        (b'{"name": "\xfe"}', "not UTF-8"),
        (b'{"name": NaN}', "no NaN"),
        (b'{"name": "\\u0000"}', "NUL"),
        (b'{"name": "\\ud800"}', "surrogate"),
        (b'{"name": ', "JSON"),
    ],
)
def test_names_what_is_wrong_with_json(http: httpx.Client, content: bytes, says: str) -> None:
    for kind in ({"content-type": "application/json"}, {"content-type": "application/json; charset=utf-8"}):
        answer = http.post("/v1/prompts", content=content, headers=kind)
        assert answer.status_code == 400, answer.text
        assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/files/a%00b", "/v1/files?after=%00", "/v1/models/%00"])
def test_refuses_nul_in_an_address(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_input")


def test_lets_the_connection_live_after_a_small_refusal(http: httpx.Client) -> None:
    def refused() -> Any:
        return http.post("/v1/prompts", content=b"[NaN]", headers={"content-type": "application/json"})

    assert [refused().status_code for _ in range(3)] == [400] * 3
    assert "connection" not in refused().headers
