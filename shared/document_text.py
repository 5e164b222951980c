"""Getting plain text out of an uploaded file: text, Markdown, HTML and source code; the rest is refused by name."""

import codecs
from html.parser import HTMLParser
from pathlib import PurePosixPath

from shared.errors import InvalidInput

_TEXT = {".txt", ".md", ".markdown", ".text", ".rst", ""}
_HTML = {".html", ".htm"}
_CODE = {
    ".c", ".cpp", ".cs", ".css", ".go", ".java", ".js", ".json", ".jsonl", ".php", ".py", ".rb", ".sh", ".sql", ".tex",
    ".toml", ".ts", ".xml", ".yaml", ".yml",
}  # fmt: skip
_BLOCKS = {"p", "div", "tr", "br", "section", "article", "table", "ul", "ol", "dl", "blockquote", "dd", "dt"}
_HEADINGS = {f"h{level}": "#" * level for level in range(1, 7)}
_SILENT = {"script", "style", "head", "nav", "template"}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class UnsupportedFile(InvalidInput):
    """A kind of file that we do not read."""

    code = "unsupported_file"


class InvalidFile(InvalidInput):
    """A kind that we read, with bytes that are not text."""

    code = "invalid_file"


def is_code(filename: str) -> bool:
    """Whether a line of the file that begins with `#` is no heading."""
    return _suffix(filename) in _CODE


def to_text(filename: str, data: bytes) -> str:
    """The document's text; headings of HTML become Markdown headings. Raises UnsupportedFile or InvalidFile."""
    suffix = _suffix(filename)
    if suffix not in _TEXT | _HTML | _CODE:
        known = ", ".join(sorted(s for s in _TEXT | _HTML | _CODE if s))
        raise UnsupportedFile(
            f"{filename}: files of type {suffix} cannot be read yet. Convert it to text, Markdown or HTML. "
            f"We read {known}."
        )
    encoding = "utf-16" if data.startswith(_UTF16) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidFile(f"{filename}: not UTF-8 text (byte {error.start}). Convert it first.") from error
    if "\x00" in text:
        raise InvalidFile(f"{filename}: holds NUL characters, so it is not text.")
    text = _html_to_text(text) if suffix in _HTML else text
    if not text.strip():
        raise InvalidFile(f"{filename}: holds no text.")
    return text


def _suffix(filename: str) -> str:
    return PurePosixPath(filename).suffix.lower()


def _html_to_text(html: str) -> str:
    parser = _Text()
    parser.feed(html)
    parser.close()
    return "".join(parser.parts)


class _Text(HTMLParser):
    """Blocks are parted by empty lines, list items get a dash, what is not shown is left out."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._silent: list[str] = []
        self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag == "body":
            self._silent.clear()  # HTML lets an author leave out </head>
        elif tag in _SILENT:
            self._silent.append(tag)
        elif tag == "pre":
            self._preformatted += 1
            self._write("\n\n```\n")
        elif tag == "li":
            self._write("\n- ")
        elif tag in _HEADINGS:
            self._write(f"\n\n{_HEADINGS[tag]} ")
        elif tag in _BLOCKS:
            self._write("\n\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._silent:
            del self._silent[self._silent.index(tag) :]
        elif tag == "pre" and self._preformatted:
            self._preformatted -= 1
            self._write("\n```\n\n")
        elif tag in _HEADINGS or tag in _BLOCKS:
            self._write("\n\n")
        elif tag in {"td", "th"}:
            self._write(" ")

    def handle_data(self, data: str) -> None:
        if self._preformatted:
            self._write(data)
            return
        words = " ".join(data.split())
        before = " " if data[:1].isspace() else ""
        after = " " if words and data[-1:].isspace() else ""
        self._write(before + words + after)

    def _write(self, text: str) -> None:
        if not self._silent:
            self.parts.append(text)
