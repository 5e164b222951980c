"""Blobs, content-addressed within a project: equal bytes in two projects are two blobs, no existence oracle."""

import hashlib
import io
import os
import secrets
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec

from shared.errors import InvalidInput, NotFound

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Blob:
    """What a write answers: where the bytes lie, their sha256 (hex) and their size in bytes."""

    key: str
    sha256: str
    size: int


Bytes = bytes | IO[bytes] | Iterable[bytes]
"""What can be stored: bytes, a stream to read from, or chunks as they come."""


class BlobMissing(NotFound):
    code = "blob_missing"


class BlobTooLarge(InvalidInput):
    status = 413
    code = "file_too_large"


class Storage:
    """Put and get bytes and folders under any fsspec URL (a local folder, S3, …).

    A folder is stored as an uncompressed tar with sorted names and zeroed metadata, so that equal folders have
    equal keys; it is unpacked once into `cache` and handed out as a path.
    """

    def __init__(self, url: str, cache: Path) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self._cache = cache

    def put_bytes(self, project_id: str, data: Bytes, *, limit: int | None = None) -> Blob:
        """Stream `data` in; refuse more than `limit` bytes without keeping any of it."""
        with self.staged(project_id, data, limit=limit) as staged:
            return staged.keep()

    @contextmanager
    def staged(self, project_id: str, data: Bytes, *, limit: int | None = None) -> Iterator["Staged"]:
        """Stream `data` in under a name of its own; it lies at its key only once `keep` is called, or is gone.

        Whoever must hold a lock on the key learns it here, after the long part and before the short one.
        """
        folder = self._folder(project_id)
        self._fs.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/.tmp-{secrets.token_hex(8)}"
        try:
            digest, size = self._copy_in(_chunks(data), temporary, limit)
            key = f"{_label(project_id)}/{digest}"
            yield Staged(Blob(key=key, sha256=digest, size=size), self._fs, temporary, f"{self._root}/{key}")
        finally:
            if self._fs.exists(temporary):
                self._fs.rm(temporary)

    def open(self, project_id: str, key: str) -> IO[bytes]:
        """The blob's bytes as a readable stream."""
        path = self._path(project_id, key)
        if not self._fs.exists(path):
            raise BlobMissing(f"The stored bytes {key} are gone from {self._root}.")
        stream: IO[bytes] = self._fs.open(path, "rb")
        return stream

    def put_folder(self, project_id: str, folder: Path) -> Blob:
        """Store every regular file under `folder`; links and special files are refused by leaving them out."""
        with self.staged_folder(project_id, folder) as staged:
            return staged.keep()

    @contextmanager
    def staged_folder(self, project_id: str, folder: Path) -> Iterator["Staged"]:
        """The folder as `put_folder` stores it, written but not yet at its key."""
        with tempfile.TemporaryFile() as packed:
            with tarfile.open(fileobj=packed, mode="w") as tar:
                for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
                    entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
                    entry.size = path.stat().st_size
                    with path.open("rb") as content:
                        tar.addfile(entry, content)
            packed.seek(0)
            with self.staged(project_id, packed) as staged:
                yield staged

    def local_folder(self, project_id: str, key: str) -> Path:
        """The folder as a local path, unpacked at first use; the path is shared, so treat it as read-only."""
        self._path(project_id, key)
        target = self._cache / key
        if target.is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".unpack-", dir=target.parent))
        try:
            with self.open(project_id, key) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
                tar.extractall(partial, filter="data")
            partial.rename(target)
        except OSError:
            # another thread or process may have unpacked the same folder first; theirs is as good
            if not target.is_dir():
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return target

    def delete(self, project_id: str, key: str) -> None:
        """Remove a blob; removing what is already gone is no error."""
        path = self._path(project_id, key)
        if self._fs.exists(path):
            self._fs.rm(path)
        shutil.rmtree(self._cache / key, ignore_errors=True)

    def _copy_in(self, chunks: Iterable[bytes], path: str, limit: int | None) -> tuple[str, int]:
        digest, size = hashlib.sha256(), 0
        with self._fs.open(path, "wb") as sink:
            for chunk in chunks:
                size += len(chunk)
                if limit is not None and size > limit:
                    raise BlobTooLarge(f"The file is larger than the limit of {limit} bytes.", param="file")
                digest.update(chunk)
                sink.write(chunk)
            _flush_to_disk(sink)
        return digest.hexdigest(), size

    def _folder(self, project_id: str) -> str:
        return f"{self._root}/{_label(project_id)}"

    def _path(self, project_id: str, key: str) -> str:
        owner, _, digest = key.partition("/")
        if owner != _label(project_id) or not _is_sha256(digest):
            raise BlobMissing("This project holds no such blob.")
        return f"{self._root}/{key}"


@dataclass(frozen=True)
class Staged:
    """Bytes that are written but not yet at their key; `blob` says which key that will be."""

    blob: Blob
    _fs: Any
    _temporary: str
    _target: str

    def keep(self) -> Blob:
        """Move the bytes to their key."""
        self._fs.mv(self._temporary, self._target)
        return self.blob


def _chunks(data: Bytes) -> Iterator[bytes]:
    if isinstance(data, bytes):
        data = io.BytesIO(data)
    if not hasattr(data, "read"):
        yield from data
        return
    while chunk := data.read(_CHUNK):
        yield chunk


def _label(project_id: str) -> str:
    if not project_id or not project_id.replace("_", "").isalnum():
        raise ValueError(f"not a project id: {project_id!r}")
    return project_id


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and all(c in "0123456789abcdef" for c in text)


def _flush_to_disk(sink: Any) -> None:
    """fsync where the sink is a local file: a row must never point to bytes that a power cut can take back."""
    sink.flush()
    try:
        descriptor = sink.fileno()
    except (AttributeError, OSError):
        return
    os.fsync(descriptor)
