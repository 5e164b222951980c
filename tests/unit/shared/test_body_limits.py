"""What JSON bodies are refused before a parser sees them."""

import codecs
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.body_limits import InvalidJson, check_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def depth_of(value: Any) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(depth_of, inside), default=0)


def storable(value: Any) -> bool:
    return "\\u0000" not in json.dumps(value)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(JSON, st.booleans(), st.integers(1, 8))
def test_takes_exactly_the_json_that_is_shallow_enough(value: Any, ascii_only: bool, most: int) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    if not storable(value):
        return
    if depth_of(value) <= most:
        check_json(body, most)
    else:
        with pytest.raises(InvalidJson, match=f"more than {most} levels"):
            check_json(body, most)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"a": "\xff"}', "not UTF-8: byte 7 is 0xff"),
        (b"[NaN]", "no NaN"),
        (b"[-Infinity]", "no Infinity"),
        (b"[1e999]", "64 bits"),
        (b"1" * 400, "64 bits"),
        (b'["\\u0000"]', "NUL"),
        (b'["\\\\\\u0000"]', "NUL"),
        (b'["\\ud800"]', "surrogate"),
        (b'["\\udc00\\ud800"]', "surrogate"),
        ("[1]".encode("utf-16-le"), "UTF-16.*RFC 8259"),
        ("[1]".encode("utf-16-be"), "UTF-16.*RFC 8259"),
        (codecs.BOM_UTF16_LE + "三".encode("utf-16-le"), "UTF-16.*RFC 8259"),
        (codecs.BOM_UTF16_BE + "三".encode("utf-16-be"), "UTF-16.*RFC 8259"),
        ("[1]".encode("utf-32"), "UTF-32.*RFC 8259"),
        ("[1]".encode("utf-32-be"), "UTF-32.*RFC 8259"),
        (b'["\0"]', "raw byte NUL"),
        (b"[" * 100_000, "more than 64 levels"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "more than 64 levels"),
    ],
)
def test_refuses_what_would_hurt_later(body: bytes, says: str) -> None:
    with pytest.raises(InvalidJson, match=says):
        check_json(body, 64)


@pytest.mark.parametrize(
    "body",
    [
        b'["NaN and [[[[ are only text"]',
        b'["a quote \\" and [ after it"]',
        b'["\\\\u0000 is a backslash and letters"]',
        b'["\\ud83d\\ude00"]',
        b"[1e308, 0.1e-999]",
        b"]]]][[[[",
        b'"' + b'\\"' * 200_000,
        b"[" + b"[]," * 100_000 + b"[]]",
        b"",
    ],
)
def test_leaves_the_rest_to_the_parser(body: bytes) -> None:
    check_json(body, 64)
