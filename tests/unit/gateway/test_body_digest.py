"""Fingerprints of bodies: the same for the same order, however it is cut into pieces and whatever its boundary."""

import asyncio
import io
from collections.abc import Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Message

from services.gateway.body_digest import BodyDigest

thorough = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
FORM = "multipart/form-data; boundary="


def cut(body: bytes, places: Sequence[int]) -> list[bytes]:
    ends = sorted({place % (len(body) + 1) for place in places})
    return [body[a:b] for a, b in zip([0, *ends], [*ends, len(body)], strict=True)]


def digest(pieces: list[bytes], content_type: str = "application/json", query: bytes = b"") -> str:
    made = BodyDigest(query, content_type)
    for number, piece in enumerate(pieces, start=1):
        made.update(piece, last=number == len(pieces))
    return made.hexdigest()


def form(boundary: str, content: bytes) -> bytes:
    mark = boundary.encode()
    return b"--" + mark + b"\r\n\r\n" + content + b"\r\n--" + mark + b"--\r\n"


@thorough
@given(st.binary(max_size=200), st.lists(st.integers(0, 300), max_size=8), st.lists(st.integers(0, 300), max_size=8))
def test_does_not_depend_on_the_pieces(content: bytes, one: list[int], other: list[int]) -> None:
    assert digest(cut(content, one)) == digest(cut(content, other))
    first, second = form("abcabd", content), form("0123456789ab", content)
    same = b"abcabd" in content or b"0123456789ab" in content
    assert same or digest(cut(first, one), FORM + "abcabd") == digest(cut(second, other), FORM + '"0123456789ab"')


def test_tells_contents_and_queries_apart() -> None:
    assert digest([b"a"]) != digest([b"b"])
    assert digest([b"a"], query=b"x") != digest([b"a"])
    assert digest([form("b", b"1")], FORM + "b") != digest([form("b", b"2")], FORM + "b")


@thorough
@given(st.binary(max_size=100), st.sampled_from([0, 1, 10_000, 1 << 15]), st.lists(st.integers(0, 4 << 20), max_size=5))
def test_spools_a_body_and_tells_it_again(drawn: bytes, times: int, places: list[int]) -> None:
    content = drawn * times
    pieces = cut(content, places)
    coming = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
        for number, piece in enumerate(pieces, start=1)
    ]

    async def receive() -> Message:
        return coming.pop(0) if coming else {"type": "http.disconnect"}

    async def play() -> bytes:
        made = BodyDigest(b"", "application/json")
        again = await made.spool(receive, io.BytesIO())
        assert again is not None
        assert made.hexdigest() == digest([content])
        told, more = b"", True
        while more:
            message = await again()
            told, more = told + message["body"], message["more_body"]
        assert (await again())["type"] == "http.disconnect"
        return told

    assert asyncio.run(play()) == content
