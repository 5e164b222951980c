"""Which chats create something: those whose body asks for the answer to be kept."""

import json

import pytest

from services.gateway import kept_chats
from services.gateway.kept_chats import keeps_answer

CHAT = "chat/completions"


@pytest.mark.parametrize(
    ("body", "keeps"),
    [
        (b'{"store": true}', True),
        (b'{"\\u0073tore": true}', True),
        (b'{"stor\\u0065" : true}', True),
        (b'{"store": false, "store": true}', True),
        (b'{"store": false}', False),
        (b'{"store": null}', False),
        (b'{"store": 1}', False),  # which the route refuses
        (b'{"metadata": {"store": true}}', False),
        (b'{"messages": [{"content": "\\"store\\": true"}]}', False),
        (b'["store", true]', False),
        (b'{"store": true', False),
        (b'{"store": ' + b"[" * 100_000, False),
        (b"", False),
        (None, False),
    ],
)
def test_tells_by_the_body_whether_a_chat_is_kept(body: bytes | None, keeps: bool) -> None:
    assert keeps_answer("POST", CHAT, body) is keeps


def test_says_so_of_chats_alone() -> None:
    body = b'{"store": true}'
    assert keeps_answer("POST", f"{CHAT}/", body)
    assert not keeps_answer("GET", CHAT, body)
    assert not keeps_answer("POST", "embeddings", body)
    assert not keeps_answer("POST", f"{CHAT}/chatcmpl-1", body)


def test_does_not_parse_a_chat_that_says_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(_body: bytes) -> None:
        raise AssertionError("a plain chat was parsed a second time")

    monkeypatch.setattr(kept_chats, "_says_store", parse)
    asked = {"model": "m", "messages": [{"role": "user", "content": "Wie heißt der store? 東京"}], "n": 1}
    assert not keeps_answer("POST", CHAT, json.dumps(asked, ensure_ascii=False).encode())
    assert not keeps_answer("POST", CHAT, json.dumps(asked).encode())
