"""Reading a run's rows: from the order itself, or from a stored file of JSON lines, each checked against the schema."""

import json
from collections.abc import Iterator
from typing import IO, Any, NoReturn

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.evaluation.errors import InvalidItem, SourceFileNotFound
from services.evaluation.evals.domain import MOST_ITEMS, Entry
from services.evaluation.evals.item_schemas import Rows
from services.evaluation.evals.run_schemas import FileContent
from shared.files import File, alive

_LONGEST_LINE = 1 << 20
"""Bytes of one row."""
_NUL = "\x00"


def file_key(session: Session, file_id: str) -> str:
    """Where storage keeps the file's bytes; raises SourceFileNotFound, also for one past its expiry."""
    key = session.scalar(sa.select(File.blob_key).where(File.id == file_id, alive()))
    if key is None:
        raise SourceFileNotFound(f"There is no file {file_id!r} in this project.", param="data_source.source.id")
    return key


def from_content(source: FileContent, rows: Rows) -> list[Entry]:
    """The rows of an order; raises InvalidItem naming the first that the schema does not allow."""
    where = "data_source.source.content"
    if len(source.content) > MOST_ITEMS:
        raise InvalidItem(f"{where} has {len(source.content)} rows; the limit is {MOST_ITEMS}.", param=where)
    for number, row in enumerate(source.content):
        rows.check(row.item, name=f"{where}.{number}", param=f"{where}.{number}.item")
    return [Entry(row.item, row.sample) for row in source.content]


def from_lines(stream: IO[bytes], rows: Rows) -> list[Entry]:
    """The rows of a file, one JSON object `{"item": {...}, "sample": {...}}` a line, blank lines left out.

    Raises InvalidItem naming the first line that is not as it should be.
    """
    found: list[Entry] = []
    for number, line in _lines(stream):
        if not line.strip():
            continue
        if len(found) == MOST_ITEMS:
            raise InvalidItem(f"The file has more than {MOST_ITEMS} rows.")
        entry = _entry(line, number)
        rows.check(entry.item, name=f"line {number}")
        found.append(entry)
    if not found:
        raise InvalidItem("The file has no rows.")
    return found


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := stream.readline(_LONGEST_LINE + 1):
        number += 1
        if len(line) > _LONGEST_LINE:
            raise InvalidItem(f"line {number} is longer than {_LONGEST_LINE} bytes.")
        yield number, line


def _entry(line: bytes, number: int) -> Entry:
    try:
        found = json.loads(line, parse_constant=_refuse_constant)
        _refuse_unstorable(found)
    except (ValueError, RecursionError) as error:
        raise InvalidItem(f"line {number} is no JSON that can be stored: {str(error)[:200]}") from error
    if not isinstance(found, dict) or not isinstance(found.get("item"), dict):
        raise InvalidItem(f'line {number} is no object with an object under "item".')
    unknown = sorted(set(found) - {"item", "sample"})
    if unknown:
        raise InvalidItem(f'line {number}: {unknown[0]!r} is unknown; a line has "item" and, at will, "sample".')
    sample = found.get("sample")
    if sample is not None and not isinstance(sample, dict):
        raise InvalidItem(f'line {number}: "sample" is no object.')
    return Entry(found["item"], sample)


def _refuse_unstorable(found: Any) -> None:
    """Raise ValueError for what Postgres cannot keep: half a surrogate pair, numbers beyond a double, NUL."""
    json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
    if _NUL in _texts(found):
        raise ValueError("a NUL character")


def _texts(found: Any) -> str:
    """Every string of a JSON value, its keys too, in one."""
    if isinstance(found, str):
        return found
    if isinstance(found, list):
        return "".join(map(_texts, found))
    return "".join(key + _texts(value) for key, value in found.items()) if isinstance(found, dict) else ""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
