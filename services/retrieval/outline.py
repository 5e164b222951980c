"""A text's headings and lines: Markdown headings, underlined headings, and code fences, where nothing is a heading."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_ATX = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$")
_UNDERLINE = re.compile(r"^(=+|-{3,})\s*$")
_FENCES = ("```", "~~~")


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the document's own."""

    level: int
    title: str


def outline(text: str) -> Iterator[Heading | str]:
    """Headings and lines in reading order; lines between code fences are lines whatever they look like."""
    lines = text.splitlines()
    fence = ""
    skip = False
    for number, line in enumerate(lines):
        if skip:
            skip = False
            continue
        marker = line.strip()[:3]
        if marker in _FENCES and fence in {"", marker}:
            fence = "" if fence else marker
        found = None if fence else _ATX.match(line.strip())
        if found and found.group(2):
            yield Heading(len(found.group(1)), found.group(2))
        elif not fence and _is_underlined(lines, number):
            yield Heading(1 if lines[number + 1].startswith("=") else 2, line.strip())
            skip = True
        else:
            yield line


def _is_underlined(lines: list[str], number: int) -> bool:
    """A lone line of text above a line of `=` or `-`."""
    alone = number == 0 or not lines[number - 1].strip()
    return (
        alone
        and bool(lines[number].strip())
        and not _UNDERLINE.match(lines[number])
        and number + 1 < len(lines)
        and bool(_UNDERLINE.match(lines[number + 1]))
    )
