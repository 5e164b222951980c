"""Reading uploaded examples, JSONL or CSV, as a stream; every refusal names the line and the field."""

import csv
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, NoReturn

from services.data.chat import conversation
from services.data.domain import Example, Message
from services.data.errors import ImportFailed
from services.data.normalise import clean_text
from shared.text_lines import UnreadableText, numbered_lines

_BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_DELIMITERS = (",", ";", "\t")
_OWN_FIELDS = {"question", "answer", "messages", "metadata"}


@dataclass(frozen=True)
class Limits:
    """How much one import accepts."""

    max_examples: int = 200_000
    max_line_bytes: int = 4 * 2**20


def read_examples(
    source: IO[bytes], *, limits: Limits | None = None, documents_key: str | None = None
) -> Iterator[Example]:
    """The examples of a JSONL or CSV file, in order, each with its line number.

    Fields: `question` and `answer`, or chat `messages` whose last assistant turn is the answer; `document` (one name)
    or `documents` (a list; in CSV separated by `;`), or the field called `documents_key`. Every other field becomes
    metadata. Raises ImportFailed at the first line that does not fit.
    """
    limits = limits or Limits()
    numbered = _skip_blank(_decoded(_lines(source, limits.max_line_bytes)))
    first = next(numbered, None)
    if first is None:
        raise ImportFailed("The file is empty; it should hold one example a line (JSONL) or a CSV with a header.")
    read = _read_jsonl if first[1].lstrip().startswith(("{", "[")) else _read_csv
    count = 0
    for line, row in read(first, numbered, limits):
        count += 1
        if count > limits.max_examples:
            raise ImportFailed(f"more than {limits.max_examples} examples; split the file into several.", line=line)
        yield _example(row, line, documents_key)
    if count == 0:
        raise ImportFailed("The file holds a header but no example.")


def _lines(source: IO[bytes], longest: int) -> Iterator[tuple[int, bytes]]:
    try:
        yield from numbered_lines(source, longest)
    except UnreadableText as error:
        raise ImportFailed(error.problem, line=error.line) from error


def _decoded(numbered: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, str]]:
    for number, line in numbered:
        if number == 1:
            for mark, name in _BYTE_ORDER_MARKS.items():
                if line.startswith(mark):
                    raise ImportFailed(f"The file is {name}; save it as UTF-8.")
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            yield number, line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise ImportFailed(
                f"not valid UTF-8 (byte 0x{line[error.start]:02x} at byte {error.start + 1}); save the file as UTF-8.",
                line=number,
            ) from error


def _skip_blank(numbered: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Blank lines before the first example are nothing; later ones may lie inside a quoted CSV cell."""
    started = False
    for number, line in numbered:
        started = started or bool(line.strip())
        if started:
            yield number, line


def _read_jsonl(
    first: tuple[int, str], rest: Iterator[tuple[int, str]], _limits: Limits
) -> Iterator[tuple[int, dict[str, Any]]]:
    if first[1].lstrip().startswith("["):
        raise ImportFailed("the file is one JSON array; write one object a line (JSONL).", line=first[0])
    for number, line in _chain(first, rest):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            raise ImportFailed(f"not valid JSON: {error.msg} at column {error.colno}.", line=number) from error
        except (ValueError, RecursionError) as error:
            raise ImportFailed(f"not usable JSON: {error}.", line=number) from error
        if not isinstance(row, dict):
            raise ImportFailed(f"expected a JSON object, found {_kind(row)}.", line=number)
        yield number, row


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _read_csv(
    first: tuple[int, str], rest: Iterator[tuple[int, str]], limits: Limits
) -> Iterator[tuple[int, dict[str, Any]]]:
    header, delimiter = _header(*first)
    csv.field_size_limit(limits.max_line_bytes)
    position = _Position(rest, first[0])
    reader = csv.reader(position, delimiter=delimiter, strict=True)
    while True:
        begins = position.line + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ImportFailed(f"not valid CSV: {error}.", line=begins) from error
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            problem = f"{len(cells)} cells, but the header names {len(header)} columns ({', '.join(header)})."
            raise ImportFailed(problem, line=begins)
        yield begins, {name: cell for name, cell in zip(header, cells, strict=True) if cell.strip() or _needed(name)}


class _Position:
    """Feeds lines to the CSV reader and knows the number of the last one, so that a row knows where it began."""

    def __init__(self, numbered: Iterator[tuple[int, str]], line: int) -> None:
        self.line = line
        self._numbered = numbered

    def __iter__(self) -> Iterator[str]:
        for number, text in self._numbered:
            self.line = number
            yield text + "\n"


def _header(line: int, text: str) -> tuple[list[str], str]:
    def parse(delimiter: str) -> list[str]:
        try:
            return [_known(name.strip()) for name in next(csv.reader([text], delimiter=delimiter, strict=True))]
        except csv.Error as error:
            raise ImportFailed(f"not a valid CSV header: {error}.", line=line) from error

    parsed = {delimiter: parse(delimiter) for delimiter in _DELIMITERS}
    delimiter = max(_DELIMITERS, key=lambda d: ({"question", "answer"} <= set(parsed[d]), len(parsed[d])))
    names = parsed[delimiter]
    for needed in ("question", "answer"):
        if needed not in names:
            raise ImportFailed(f'column "{needed}" is missing; found {", ".join(names)}.', line=line)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ImportFailed(f'column "{twice[0]}" is there twice.', line=line)
    return names, delimiter


def _known(name: str) -> str:
    lowered = name.lower()
    return lowered if lowered in _OWN_FIELDS | {"document", "documents"} else name


def _needed(name: str) -> bool:
    return name in {"question", "answer"}


def _example(row: dict[str, Any], line: int, documents_key: str | None) -> Example:
    def refuse(problem: str) -> NoReturn:
        raise ImportFailed(problem, line=line)

    messages, answer = _turns(row, refuse)
    documents = _documents(row, documents_key, refuse)
    taken = _OWN_FIELDS | {documents_key or ""} | ({"document", "documents"} if documents_key is None else set())
    metadata = {name: value for name, value in row.items() if name not in taken}
    nested = row.get("metadata")
    if isinstance(nested, dict):
        metadata = nested | metadata
    elif nested is not None:
        metadata["metadata"] = nested
    clean = {_clean(name, "metadata", refuse): _clean_value(value, name, refuse) for name, value in metadata.items()}
    return Example(messages=messages, answer=answer, documents=documents, metadata=clean, line=line)


def _turns(row: dict[str, Any], refuse: Callable[[str], NoReturn]) -> tuple[tuple[Message, ...], str]:
    if "messages" in row:
        turns, answer = conversation(row["messages"], refuse)
        cleaned = tuple(Message(turn.role, _text(turn.content, "messages", refuse)) for turn in turns)
        return cleaned, _text(answer, "messages", refuse)
    question = _text(_required(row, "question", refuse), "question", refuse)
    return (Message("user", question),), _text(_required(row, "answer", refuse), "answer", refuse)


def _required(row: dict[str, Any], name: str, refuse: Callable[[str], NoReturn]) -> Any:
    if name not in row:
        refuse(f'field "{name}" is missing; an example has question and answer, or messages.')
    return row[name]


def _text(value: Any, name: str, refuse: Callable[[str], NoReturn]) -> str:
    """A text that is not empty; numbers are taken as they are written, since answers often are numbers."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        value = str(value)
    if not isinstance(value, str):
        refuse(f'field "{name}" should be text, found {_kind(value)}.')
    return _clean(value, name, refuse) or refuse(f'field "{name}" is empty.')


def _clean(value: str, name: str, refuse: Callable[[str], NoReturn]) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        refuse(f'field "{name}" holds half of a surrogate pair, which is no character.')
    return clean_text(value)


def _clean_value(value: Any, name: str, refuse: Callable[[str], NoReturn]) -> Any:
    """Metadata keeps its shape; the texts in it are cleaned, so that the database can hold every one."""
    if isinstance(value, str):
        return _clean(value, name, refuse)
    if isinstance(value, list):
        return [_clean_value(one, name, refuse) for one in value]
    if isinstance(value, dict):
        return {_clean(key, name, refuse): _clean_value(one, name, refuse) for key, one in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        refuse(f'field "{name}" holds a number too large to store.')
    return value


def _documents(row: dict[str, Any], key: str | None, refuse: Callable[[str], NoReturn]) -> tuple[str, ...]:
    name = key or ("documents" if "documents" in row else "document")
    value = row.get(name)
    if value is None:
        return ()
    if isinstance(value, str):
        value = value.split(";") if name == "documents" else [value]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        refuse(f'field "{name}" should be a file name or a list of them, found {_kind(value)}.')
    cleaned = (_clean(one, name, refuse) for one in value)
    return tuple(dict.fromkeys(one for one in cleaned if one))


def _chain(first: tuple[int, str], rest: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield first
    yield from rest


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
