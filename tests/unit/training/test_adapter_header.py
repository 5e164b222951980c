"""The header of a stranger's file: the parser raises nothing but its own refusal and reads nothing after the header."""

import io
import json
from typing import Any, BinaryIO

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from services.training.adapters.errors import AdapterRefused, HeaderInvalid, NotSafetensors
from services.training.adapters.header import MOST_HEADER_BYTES, read_header, shown

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "f32", "", 3]),
        "shape": st.lists(st.integers(-1, 4), max_size=3) | VALUES,
        "data_offsets": st.lists(st.integers(-2, 40), min_size=2, max_size=2) | VALUES,
    },
    optional={"more": VALUES},
)
HEADERS = st.dictionaries(st.sampled_from(["a", "b", "__metadata__", "\ud800", "\x00"]), ENTRIES | VALUES)
patiently = settings(suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no defect."""


class Counting(io.BytesIO):
    """Remembers how far it was read."""

    furthest = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0, "an unbounded read"
        found = super().read(size)
        self.furthest = max(self.furthest, self.tell())
        return found


def file_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def read(content: bytes) -> Any:
    return read_header(io.BytesIO(content), len(content))


def looked_at(content: bytes) -> None:
    """Read it; whatever it holds, at most an AdapterRefused comes of it, and only header bytes were read."""
    stream, refusals = Counting(content), []
    try:
        read_header(stream, len(content))
    except AdapterRefused as refusal:
        refusals.append(refusal)
    assert all(refusal.param == "weights_file" for refusal in refusals)
    assert all(refusal.message.isascii() and refusal.message.isprintable() for refusal in refusals)
    announced = int.from_bytes(content[:8], "little")
    most = 8 + announced if announced <= MOST_HEADER_BYTES else 8
    assert stream.furthest <= min(most, len(content))


@patiently
@given(st.binary(max_size=200))
@example(b"")
@example(b"\xff" * 8)
@example((2**63).to_bytes(8, "little") + b"{}")
def test_survives_any_bytes(content: bytes) -> None:
    looked_at(content)


@patiently
@given(st.binary(max_size=60), st.binary(max_size=20))
@example(b"[" * 50, b"")
@example(b'{"a":' * 12, b"")
@example(b'{"a": NaN}', b"")
@example(b'{"\\ud800": {}}', b"")
def test_survives_any_header(text: bytes, data: bytes) -> None:
    looked_at(file_of(text, data))


@patiently
@given(HEADERS, st.integers(0, 40))
def test_survives_any_entries(header: dict[str, Any], size: int) -> None:
    looked_at(file_of(header, bytes(size)))


@patiently
@given(st.data())
def test_survives_any_change_of_a_sound_file(data: st.DataObject) -> None:
    content = bytearray(save({"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.float16)}))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    looked_at(bytes(content[: data.draw(st.integers(0, len(content)))]))


def test_survives_brackets_deeper_than_the_stack() -> None:
    for text in (b"{" + b'"a":{' * 200_000, b'{"a":' + b"[" * 200_000):
        with pytest.raises(HeaderInvalid):
            read(file_of(text))


def test_survives_a_number_of_ten_thousand_digits() -> None:
    with pytest.raises(HeaderInvalid):
        read(file_of(b'{"a": {"dtype": "F32", "shape": [' + b"9" * 10_000 + b'], "data_offsets": [0, 4]}}'))


@patiently
@given(st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda n: n != "__metadata__"), st.integers(0, 5)))
def test_reads_what_the_library_writes(sizes: dict[str, int]) -> None:
    content = save({name: torch.zeros(size, 2, dtype=torch.bfloat16) for name, size in sizes.items()})
    found = read(content)
    assert {name: one.shape for name, one in found.items()} == {name: (size, 2) for name, size in sizes.items()}
    assert {one.dtype for one in found.values()} <= {"BF16"}


HOSTILE = {
    "header longer than the file": ((1000).to_bytes(8, "little") + b"{}", "has 1000 bytes"),
    "header longer than the bound": ((2**40).to_bytes(8, "little") + bytes(100), "may have"),
    "tensor beyond the file": (file_of({"a": entry([100], 0, 400)}, bytes(4)), "end at byte 400"),
    "bytes hidden behind the tensors": (file_of({"a": entry([1], 0, 4)}, bytes(8)), "end at byte 4"),
    "gap": (file_of({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)), "leaves a gap"),
    "overlap": (file_of({"a": entry([2], 0, 8), "b": entry([1], 4, 8)}, bytes(8)), "overlaps"),
    "shape that lies": (file_of({"a": entry([1000, 1000], 0, 4)}, bytes(4)), "needs 4000000 bytes"),
    "overflowing shape": (file_of({"a": entry([2**40] * 8, 0, 4)}, bytes(4)), "needs"),
    "negative offset": (file_of({"a": entry([1], -4, 0)}, b""), "data_offsets"),
    "offsets the wrong way round": (file_of({"a": entry([1], 4, 0)}, bytes(4)), "rising order"),
    "boolean shape": (file_of({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, bytes(4)), "shape"),
    "integer weights": (file_of({"a": entry([1], 0, 8, "I64")}, bytes(8)), "'I64'"),
    "more keys": (file_of({"a": entry([1], 0, 4) | {"code": "x"}}, bytes(4)), "nothing else"),
    "a name twice": (file_of(b'{"a": {}, "a": {}}'), "occurs twice"),
    "metadata that is no text": (file_of({"__metadata__": {"a": 1}}), "__metadata__"),
    "no JSON": (file_of(b"{'a': 1}"), "not JSON"),
    "no UTF-8": (file_of(b'{"\xff": 1}'), "not JSON"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_says_what_is_wrong_with_a_hostile_header(name: str) -> None:
    content, said = HOSTILE[name]
    with pytest.raises(HeaderInvalid) as refused:
        read(content)
    assert said in refused.value.message
    assert len(refused.value.message) < 500


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"PK\x03\x04\x14\x00\x08\x08", "zip"),
        (b"\x80\x02}q\x00(X\x01", "pickle"),
        (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00", "pickle"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "gzip"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b'{"peft_type": "LORA"}', "JSON"),
    ],
)
def test_names_the_kind_of_a_file_that_it_never_opens(start: bytes, kind: str) -> None:
    with pytest.raises(NotSafetensors, match=kind):
        read(start + bytes(200))


def test_takes_a_header_whose_length_begins_like_a_pickle() -> None:
    """0x0280 bytes of header: the first two bytes of the file are those of a pickle, and it is none."""
    text = json.dumps({"a": entry([1], 0, 4)}).encode().ljust(0x280)
    content = file_of(text, bytes(4))
    assert content.startswith(b"\x80\x02")
    assert list(read(content)) == ["a"]


def test_shows_a_strangers_text_in_plain_ascii() -> None:
    assert shown("\x00\ud800\n") == r"'\x00\ud800\n'"
    assert len(shown("a" * 10_000)) < 130


def test_reads_a_stream_that_ends_early() -> None:
    content = save({"a": torch.zeros(4)})
    stream: BinaryIO = io.BytesIO(content[:20])
    with pytest.raises(HeaderInvalid, match="within its header"):
        read_header(stream, len(content))
