"""Cutting a document into passages: along headings, paragraphs and sentences, seldom in mid-sentence."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Count = Callable[[str], int]
_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(\[])")


@dataclass(frozen=True)
class Chunk:
    """A passage before it is stored: its heading path, its text, its tokens."""

    title: str
    text: str
    tokens: int


@dataclass(frozen=True)
class _Section:
    title: str
    text: str


def cut(text: str, *, fallback_title: str, count: Count, most: int, overlap: int = 0) -> list[Chunk]:
    """The document's passages in reading order, each at most `most` tokens, none empty.

    Whole paragraphs are packed together while they fit; a longer paragraph is cut at sentence ends, a longer sentence
    at words. `overlap` repeats up to so many tokens of whole sentences from the end of one passage in the next.
    Raises ValueError unless 0 <= overlap < most.
    """
    if not 0 <= overlap < most:
        raise ValueError(f"overlap must be at least 0 and below {most}, not {overlap}")
    chunks: list[Chunk] = []
    for section in _sections(text, fallback_title):
        pieces = list(_pieces(section.text, count, most))
        chunks += [Chunk(section.title, packed, count(packed)) for packed in _pack(pieces, count, most, overlap)]
    return chunks


def document_title(text: str, fallback: str) -> str:
    """The first heading, or the fallback."""
    for line in text.splitlines():
        found = _HEADING.match(line.strip())
        if found:
            return found.group(2)
        if line.strip():
            break
    return fallback


def _sections(text: str, fallback: str) -> Iterator[_Section]:
    """Split along Markdown headings; a section's title is the path of headings above it."""
    path: list[tuple[int, str]] = []
    lines: list[str] = []
    for line in [*text.splitlines(), None]:
        found = _HEADING.match(line.strip()) if line is not None else None
        if line is not None and not found:
            lines.append(line)
            continue
        body = "\n".join(lines).strip()
        if body:
            yield _Section(" › ".join(title for _, title in path) or fallback, body)
        lines = []
        if found:
            level = len(found.group(1))
            path = [(above, title) for above, title in path if above < level] + [(level, found.group(2))]


def _pieces(text: str, count: Count, most: int) -> Iterator[str]:
    """Paragraphs, or sentences of those too long, or word runs of those too long; each at most `most` tokens."""
    for paragraph in re.split(r"\n\s*\n", text):
        paragraph = " ".join(paragraph.split())
        if not paragraph:
            continue
        if count(paragraph) <= most:
            yield paragraph
            continue
        for sentence in _SENTENCE_END.split(paragraph):
            if count(sentence) <= most:
                yield sentence
            else:
                yield from _word_runs(sentence, count, most)


def _word_runs(sentence: str, count: Count, most: int) -> Iterator[str]:
    run: list[str] = []
    for word in sentence.split():
        if run and count(" ".join([*run, word])) > most:
            yield " ".join(run)
            run = []
        while count(word) > most and len(word) > 1:  # a "word" such as base64: cut it by characters
            size = max(1, len(word) * most // count(word) - 1)
            yield word[:size]
            word = word[size:]
        run.append(word)
    if run:
        yield " ".join(run)


def _pack(pieces: list[str], count: Count, most: int, overlap: int) -> Iterator[str]:
    packed: list[str] = []
    for piece in pieces:
        if packed and count(" ".join([*packed, piece])) > most:
            yield " ".join(packed)
            packed = _tail(packed, count, min(overlap, most - count(piece)))
        packed.append(piece)
    if packed:
        yield " ".join(packed)


def _tail(pieces: list[str], count: Count, most: int) -> list[str]:
    """The last whole pieces that together have at most `most` tokens."""
    kept: list[str] = []
    for piece in reversed(pieces):
        if most <= 0 or count(" ".join([piece, *kept])) > most:
            break
        kept.insert(0, piece)
    return kept
