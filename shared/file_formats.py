"""Recognising by its first bytes what nobody unpacks here: archives and compressed files where text is expected."""

_MAGIC = (
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"PK\x05\x06", "a ZIP archive"),
    (4, b"1AY&SY", "a bzip2 file"),
    (0, b"\xfd7zXZ\x00", "an XZ file"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (0, b"\x04\x22\x4d\x18", "an LZ4 file"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (0, b"PAR1", "a Parquet file"),
    (257, b"ustar", "a tar archive"),
)


def packed_format(head: bytes) -> str | None:
    """The name of the archive or compression that the file begins like, with its article; None for anything else.

    `head` is the file's beginning, 262 bytes or more where it has as many.
    """
    return next((name for at, magic, name in _MAGIC if head[at : at + len(magic)] == magic), None)
