"""Reading a stored text file line by line, bounded: what is packed or has no line ends is refused, not swallowed."""

from collections.abc import Iterator
from typing import IO

from shared.errors import InvalidInput
from shared.file_formats import packed_format

_CHUNK = 1 << 20


class UnreadableText(InvalidInput):
    """The file is no text of lines; `line` counts from 1, 0 means the file as a whole."""

    code = "unreadable_file"

    def __init__(self, problem: str, *, line: int = 0) -> None:
        super().__init__(f"line {line}: {problem}" if line else problem, param="file")
        self.problem = problem
        self.line = line


def numbered_lines(source: IO[bytes], longest: int) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, without their ends; our own, since a stream from object storage cannot bound them.

    Raises UnreadableText for a line of more than `longest` bytes, and for archives and compressed files.
    """
    kept, number = b"", 0
    while chunk := source.read(_CHUNK):
        if number == 0 and not kept:
            _refuse_packed(chunk)
        *whole, kept = (kept + chunk).split(b"\n")
        for line in whole:
            number += 1
            yield number, _bounded(line, number, longest)
        _bounded(kept, number + 1, longest)
    if kept:
        yield number + 1, kept


def _refuse_packed(head: bytes) -> None:
    packed = packed_format(head)
    if packed is not None:
        raise UnreadableText(f"The file is {packed}. Nothing is unpacked here: send the plain text, as UTF-8.")


def _bounded(line: bytes, number: int, longest: int) -> bytes:
    if len(line) > longest:
        raise UnreadableText(f"the line is longer than {longest} bytes.", line=number)
    return line
