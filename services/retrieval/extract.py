"""Getting plain text out of an uploaded file: text, Markdown and HTML; anything else is refused by name."""

from html.parser import HTMLParser
from pathlib import PurePosixPath

from services.retrieval.errors import UnsupportedFile

_TEXT = {".txt", ".md", ".markdown", ".text", ".rst", ""}
_HTML = {".html", ".htm"}
_BLOCKS = {"p", "div", "li", "tr", "br", "section", "article", "pre", "blockquote", "dd", "dt"}
_HEADINGS = {f"h{level}": "#" * level for level in range(1, 7)}
_SILENT = {"script", "style", "head", "nav", "template"}


def to_text(filename: str, data: bytes) -> str:
    """The document's text; headings of HTML become Markdown headings. Raises UnsupportedFile."""
    suffix = PurePosixPath(filename).suffix.lower()
    if suffix not in _TEXT | _HTML:
        known = ", ".join(sorted(s for s in _TEXT | _HTML if s))
        raise UnsupportedFile(f"{filename}: files of type {suffix} cannot be read yet; we read {known}.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnsupportedFile(f"{filename}: not UTF-8 text (byte {error.start}). Convert it first.") from error
    if "\x00" in text:
        raise UnsupportedFile(f"{filename}: holds NUL characters, so it is not text.")
    return _html_to_text(text) if suffix in _HTML else text


def _html_to_text(html: str) -> str:
    parser = _Text()
    parser.feed(html)
    parser.close()
    return "".join(parser.parts)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag in _SILENT:
            self._silent += 1
        elif tag in _HEADINGS:
            self.parts.append(f"\n\n{_HEADINGS[tag]} ")
        elif tag in _BLOCKS:
            self.parts.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _SILENT and self._silent:
            self._silent -= 1
        elif tag in _HEADINGS or tag in _BLOCKS:
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(" ".join(data.split()) + (" " if data[-1:].isspace() else ""))
