"""A folder as one .zip: equal folders give equal bytes."""

import zipfile
from pathlib import Path

_OLDEST = (1980, 1, 1, 0, 0, 0)
_COPY = 1 << 20


def pack(folder: Path, target: Path) -> None:
    """Every file directly in `folder`, stored as it is: weights hardly get smaller by compression."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as packed:
        for path in sorted(folder.iterdir()):
            entry = zipfile.ZipInfo(path.name, _OLDEST)
            entry.file_size = path.stat().st_size  # past 4 GB the entry's head is another
            with path.open("rb") as content, packed.open(entry, "w") as sink:
                while chunk := content.read(_COPY):
                    sink.write(chunk)
