"""A document's text as passages are cut from it: what is code stands in a fence, so that none of it is a heading."""

from shared import document_text


def to_text(filename: str, data: bytes) -> str:
    """The document's text as Markdown. Raises UnsupportedFile or InvalidFile."""
    text = document_text.to_text(filename, data)
    return f"~~~\n{text}\n~~~" if document_text.is_code(filename) else text


def storable(text: str) -> str:
    """The text as Postgres and tokenizers take it: no NUL, no half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", " ")
