"""Cutting a document into passages: along headings, paragraphs, list items and sentences, seldom in mid-sentence."""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from services.retrieval.outline import Heading, outline

Count = Callable[[str], int]
_SENTENCE_END = re.compile(
    r"(?<=[.!?])(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bvs\.)(?<!\bcf\.)(?<!\bFig\.)(?<!\bSec\.)\s+(?=[A-Z0-9\"'(\[])"
    r"|(?<=[。！？])"
)
_OWN_LINE = re.compile(r"\s*(?:[-*+]\s|\d{1,3}[.)]\s|\|)")
_CHARACTERS_A_TOKEN = 16
"""No token stands for more: some tokenizers count a megabyte without a space as one unknown word."""


@dataclass(frozen=True)
class Chunk:
    """A passage before it is stored: its heading path, its text, its tokens."""

    title: str
    text: str
    tokens: int


@dataclass(frozen=True)
class _Piece:
    """What a passage is packed from; `before` joins it to the piece ahead of it."""

    before: str
    text: str


def cut(
    text: str, *, fallback_title: str, count: Count, most: int, overlap: int = 0, whole: int | None = None
) -> list[Chunk]:
    """The document's passages in reading order, each at most `most` tokens, none empty.

    Whole paragraphs and list items are packed together while they fit; a longer one is cut at sentence ends, a longer
    sentence at words. `overlap` repeats up to so many tokens of whole sentences from the end of one passage in the
    next. `whole` bounds title and text together (what the embedder reads). Raises ValueError unless
    0 <= overlap < most.
    """
    if not 0 <= overlap < most:
        raise ValueError(f"overlap must be at least 0 and below {most}, not {overlap}")

    def measure(piece: str) -> int:
        return max(count(piece), len(piece) // _CHARACTERS_A_TOKEN)

    chunks: list[Chunk] = []
    for title, blocks in _sections(text, fallback_title):
        room = most if whole is None else min(most, max(whole - measure(title), whole // 2))
        pieces = [piece for block in blocks for piece in _fitting(block, measure, room)]
        packed = _pack(pieces, measure, room, min(overlap, room - 1))
        chunks += [Chunk(title, passage, measure(passage)) for passage in packed]
    return chunks


def document_title(text: str, fallback: str) -> str:
    """The heading that opens the document, or the fallback."""
    for part in outline(text):
        if isinstance(part, Heading):
            return part.title
        if part.strip():
            break
    return fallback


def _sections(text: str, fallback: str) -> Iterator[tuple[str, list[_Piece]]]:
    """(heading path, blocks) of every section that says something; a heading with nothing below it says itself."""
    path: list[Heading] = []
    lines: list[str] = []
    for part in [*outline(text), None]:
        if isinstance(part, str):
            lines.append(part)
            continue
        title = " › ".join(heading.title for heading in path) or fallback
        if blocks := list(_blocks(lines)):
            yield title, blocks
        elif path and (part is None or part.level <= path[-1].level):
            yield title, [_Piece("\n", path[-1].title)]
        lines = []
        if part is not None:
            path = [*(above for above in path if above.level < part.level), part]


def _blocks(lines: Sequence[str]) -> Iterator[_Piece]:
    """Paragraphs with their soft line breaks undone; list items, table rows and lines of code each on a line."""
    words: list[str] = []
    fence = ""
    for line in [*lines, ""]:
        marker = line.strip()[:3]
        if marker in {"```", "~~~"} and fence in {"", marker}:
            fence = "" if fence else marker
            ends, begins = True, ""
        elif fence:
            ends, begins = True, ""
            if line.strip():
                yield _Piece("\n", line.rstrip())
        else:
            ends = not line.strip() or bool(_OWN_LINE.match(line))
            begins = line
        if ends and words:
            yield _Piece("\n", " ".join(words))
            words = []
        words += begins.split()


def _fitting(block: _Piece, measure: Count, most: int) -> Iterator[_Piece]:
    """The block, or its sentences where it is too long, or word runs of those too long; each at most `most` tokens."""
    if measure(block.text) <= most:
        yield block
        return
    before = block.before
    for sentence in filter(None, _SENTENCE_END.split(block.text)):
        for run in [sentence] if measure(sentence) <= most else _word_runs(sentence, measure, most):
            yield _Piece(before, run)
            before = " "


def _word_runs(sentence: str, measure: Count, most: int) -> Iterator[str]:
    words = [part for word in sentence.split() for part in _word_parts(word, measure, most)]
    while words:
        fits = _longest(lambda size: measure(" ".join(words[:size])), min(len(words), most), most)  # noqa: B023
        yield " ".join(words[:fits])
        words = words[fits:]


def _word_parts(word: str, measure: Count, most: int) -> Iterator[str]:
    """The word, or (base64, a language without spaces) runs of its characters."""
    largest = most * _CHARACTERS_A_TOKEN
    begin = 0
    while begin < len(word):
        run = word[begin : begin + largest]
        fits = _longest(lambda size, run=run: measure(run[:size]), len(run), most)  # type: ignore[misc]
        yield run[:fits]
        begin += fits


def _longest(tokens_of: Callable[[int], int], largest: int, most: int) -> int:
    """The largest size from 1 to `largest` with at most `most` tokens, found by bisection; never less than 1."""
    return max(1, bisect_right(range(1, largest + 1), most, key=tokens_of))


def _pack(pieces: Sequence[_Piece], measure: Count, most: int, overlap: int) -> Iterator[str]:
    packed: list[_Piece] = []
    for piece in pieces:
        if packed and measure(_join([*packed, piece])) > most:
            yield _join(packed)
            packed = _tail(packed, piece, measure, overlap, most)
        packed.append(piece)
    if packed:
        yield _join(packed)


def _tail(packed: Sequence[_Piece], following: _Piece, measure: Count, overlap: int, most: int) -> list[_Piece]:
    """The last whole pieces to repeat: at most `overlap` tokens, and only what still fits before the next piece."""
    kept: list[_Piece] = []
    for piece in reversed(packed[1:]):
        longer = [piece, *kept]
        if measure(_join(longer)) > overlap or measure(_join([*longer, following])) > most:
            break
        kept = longer
    return kept


def _join(pieces: Sequence[_Piece]) -> str:
    return pieces[0].text + "".join(piece.before + piece.text for piece in pieces[1:])
