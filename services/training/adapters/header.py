"""Reading a safetensors header without trusting it: only its bytes are read, every number is checked.

Format: 8 bytes, the header's length N as a little-endian integer; N bytes of JSON; then the tensors' bytes, which the
header's offsets must cover without gap or overlap (https://github.com/huggingface/safetensors#format).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from services.training.adapters.errors import AdapterRefused, HeaderInvalid, NotSafetensors

ADAPTER_WIDTHS: Mapping[str, int] = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes per value of the types that an adapter may have."""
_BY_WIDTH = {1: "F8_E5M2 F8_E4M3 BOOL U8 I8", 2: "F16 BF16 U16 I16", 4: "F32 U32 I32", 8: "F64 U64 I64"}
MODEL_WIDTHS: Mapping[str, int] = {name: width for width, names in _BY_WIDTH.items() for name in names.split()}
"""The format's whole list, for base models."""
MOST_HEADER_BYTES = 4 << 20
"""An adapter on every layer of a 70B model needs 200 KB."""
MOST_DIMENSIONS = 8
_PREFIX_BYTES = 8
_MAGIC = (
    (b"PK\x03\x04", "a zip archive, as torch.save writes"),
    (b"PK\x05\x06", "a zip archive"),
    (b"\x80", "a pickle"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"{", "a JSON text; perhaps the two files were mixed up"),
)


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: its type, its shape, and where its bytes lie after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_header(
    stream: BinaryIO, size: int, *, widths: Mapping[str, int] = ADAPTER_WIDTHS, most: int = MOST_HEADER_BYTES
) -> dict[str, TensorEntry]:
    """The tensors of a file of `size` bytes, by name. Reads the header's bytes and none after them.

    Raises AdapterRefused for anything that is not exactly what the format says, and no other error.
    """
    prefix = stream.read(_PREFIX_BYTES)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < _PREFIX_BYTES or length > min(most, size - _PREFIX_BYTES) or length < 2:
        raise _no_length(prefix, length, size, most)
    text = stream.read(length)
    if len(text) < length:
        raise _broken(f"the file ends after {_PREFIX_BYTES + len(text)} bytes, within its header")
    if not text.startswith(b"{"):
        raise NotSafetensors("It is no safetensors file: its header is not a JSON object.", param="weights_file")
    found = _parse(text)
    entries = {name: _entry(name, value, widths) for name, value in found.items() if name != "__metadata__"}
    _check_metadata(found.get("__metadata__", {}))
    _check_cover(entries, size - _PREFIX_BYTES - length)
    return entries


def shown(name: str) -> str:
    """A stranger's string for an error message: short, and nothing in it but printable ASCII."""
    return ascii(name if len(name) <= 120 else name[:117] + "...")


def _no_length(prefix: bytes, length: int, size: int, most: int) -> AdapterRefused:
    kind = next((kind for magic, kind in _MAGIC if prefix.startswith(magic)), None)
    if kind is not None:
        message = f"It is not a safetensors file but {kind}. Only safetensors are taken; nothing else is ever opened."
        return NotSafetensors(message, param="weights_file")
    return _broken(
        f"its first 8 bytes say that the header has {length} bytes; the file has {size} bytes and a header may have "
        f"{most}"
    )


def _broken(what: str) -> HeaderInvalid:
    return HeaderInvalid(f"The safetensors header is refused: {what}.", param="weights_file")


def _parse(text: bytes) -> dict[str, Any]:
    try:
        # RecursionError: brackets nested deeper than the interpreter's stack
        found = json.loads(text.decode(), object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _broken(f"it is not JSON ({type(error).__name__}: {shown(str(error))})") from error
    assert isinstance(found, dict), "it begins with a brace"
    return found


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _broken(f"the key {shown(name)} occurs twice")
        found[name] = value
    return found


def _no_constant(name: str) -> Any:
    raise _broken(f"{name} is not JSON")


def _entry(name: str, value: Any, widths: Mapping[str, int]) -> TensorEntry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise _broken(f"tensor {shown(name)} must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in widths:
        kinds = ", ".join(widths)
        raise _broken(f"tensor {shown(name)} has the dtype {shown(str(dtype))}; {kinds} are taken")
    if not _are_sizes(shape) or len(shape) > MOST_DIMENSIONS:
        raise _broken(f"tensor {shown(name)} has no shape of at most {MOST_DIMENSIONS} non-negative integers")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _broken(f"tensor {shown(name)} has no two data_offsets in rising order")
    entry = TensorEntry(dtype, tuple(shape), offsets[0], offsets[1])
    if entry.elements * widths[dtype] != entry.end - entry.begin:
        raise _broken(
            f"tensor {shown(name)} of shape {list(shape)} in {dtype} needs {entry.elements * widths[dtype]} bytes and "
            f"has {entry.end - entry.begin}"
        )
    return entry


def _are_sizes(found: Any) -> bool:
    """A list of integers that a file's size could be; `True` is no integer here."""
    return isinstance(found, list) and all(type(one) is int and 0 <= one < 2**48 for one in found)


def _check_metadata(found: Any) -> None:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise _broken("__metadata__ must be an object of strings")


def _check_cover(entries: Mapping[str, TensorEntry], size: int) -> None:
    """The tensors lie one after the other from 0 to `size`: nothing outside the file, shared or hidden."""
    reached = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != reached:
            fault = "overlaps the tensor before it" if entry.begin < reached else "leaves a gap before it"
            raise _broken(f"tensor {shown(name)} begins at byte {entry.begin} and {fault}, which ends at {reached}")
        reached = entry.end
    if reached != size:
        raise _broken(f"its tensors end at byte {reached} and the file's data at {size}")
