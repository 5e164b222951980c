"""Blobs: addressed by content within a project, whole or not there, folders equal when their files are."""

import io
from pathlib import Path

import pytest

from shared.storage import BlobMissing, BlobTooLarge, Storage


def test_gives_back_the_bytes_it_was_given(storage: Storage) -> None:
    blob = storage.put_bytes("proj_a", b"hello")
    with storage.open("proj_a", blob.key) as stream:
        assert stream.read() == b"hello"
    assert blob.size == 5


def test_addresses_equal_bytes_equally_within_a_project_and_apart_between_projects(storage: Storage) -> None:
    first, again = storage.put_bytes("proj_a", b"same"), storage.put_bytes("proj_a", io.BytesIO(b"same"))
    other = storage.put_bytes("proj_b", b"same")
    assert first == again
    assert other.key != first.key
    storage.delete("proj_a", first.key)
    with storage.open("proj_b", other.key) as stream:
        assert stream.read() == b"same"


def test_shows_no_project_anothers_blob(storage: Storage) -> None:
    blob = storage.put_bytes("proj_a", b"secret")
    with pytest.raises(BlobMissing):
        storage.open("proj_b", blob.key)


@pytest.mark.parametrize("key", ["proj_a/../../etc/passwd", "proj_a/" + "0" * 63, "../proj_a/x", ""])
def test_refuses_keys_that_are_paths(storage: Storage, key: str) -> None:
    with pytest.raises(BlobMissing):
        storage.open("proj_a", key)


def test_keeps_nothing_of_a_file_over_the_limit(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(BlobTooLarge):
        storage.put_bytes("proj_a", io.BytesIO(b"x" * 100), limit=99)
    assert [p for p in (tmp_path / "blobs").rglob("*") if p.is_file()] == []


def test_stores_folders_by_their_files_alone(storage: Storage, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "a.txt").write_text("a")
        (tmp_path / name / "b.txt").write_text("b")
    (tmp_path / "two" / "link").symlink_to("/etc/passwd")
    first, second = (storage.put_folder("proj_a", tmp_path / name) for name in ("one", "two"))
    assert first == second
    unpacked = storage.local_folder("proj_a", first.key)
    assert {p.relative_to(unpacked).as_posix() for p in unpacked.rglob("*") if p.is_file()} == {"sub/a.txt", "b.txt"}
    assert storage.local_folder("proj_a", first.key) == unpacked
