"""Files as rows and bytes: the one way in and the one way out, for uploads and for the files that services write.

Equal bytes of a project lie in storage once, whatever rows name them, so bytes come and go under a lock on their key.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapped, Session, mapped_column

from shared.database import Base, Database, TenantRow, after_commit
from shared.errors import NotFound
from shared.ids import new_id
from shared.storage import Blob, Bytes, Staged, Storage
from shared.telemetry import logger

log = logger(__name__)
_MOMENT = sa.TIMESTAMP(timezone=True)
BLOB_COLUMNS = (
    ("files", "blob_key"),
    ("upload_parts", "blob_key"),
    ("adapters", "blob_key"),
    ("checkpoints", "blob_key"),
    ("batches", "input_blob_key"),
    ("training_jobs", "resume_blob_key"),
    ("held_files", "blob_key"),
    ("experiment_reports", "markdown_key"),
    ("experiment_reports", "html_key"),
)
"""Every column that names bytes in storage: bytes go when none of them names them any more."""


UNDELETED: Any = {"read": True, "key_share": True}
"""How to lock rows that nobody shall delete until the transaction ends (FOR KEY SHARE)."""


class FileMissing(NotFound):
    code = "file_not_found"


class File(TenantRow, Base):
    """Bytes that a client uploaded or a service wrote; `blob_key` is where storage keeps them."""

    __tablename__ = "files"

    id: Mapped[str] = mapped_column(primary_key=True)
    filename: Mapped[str]
    """A label only; it never becomes a path."""
    purpose: Mapped[str]
    bytes: Mapped[int] = mapped_column(sa.BigInteger)
    sha256: Mapped[str]
    blob_key: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="processed")
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
    expires_at: Mapped[datetime | None] = mapped_column(_MOMENT)


def get_file(session: Session, file_id: str, *, param: str = "file_id") -> File:
    """The project's file, or FileMissing; a file past its expiry is gone."""
    found = session.scalars(sa.select(File).where(File.id == file_id, alive())).one_or_none()
    if found is None:
        raise FileMissing(f"There is no file {file_id!r} in this project.", param=param)
    return found


def hold_file(session: Session, file_id: str, *, param: str = "file_id") -> File:
    """The file, whose bytes stay until the transaction ends: time to write a row that names them too."""
    session.execute(sa.select(File.id).where(File.id == file_id).with_for_update(**UNDELETED))
    return get_file(session, file_id, param=param)


def alive() -> sa.ColumnElement[bool]:
    """The condition on files that anybody still sees."""
    return sa.or_(File.expires_at.is_(None), File.expires_at > sa.func.now())


def store_file(
    session: Session,
    storage: Storage,
    project_id: str,
    *,
    filename: str,
    purpose: str,
    chunks: Bytes,
    lifetime: int | None = None,
) -> File:
    """Store a file that a service wrote (a result, an output) in the caller's transaction.

    The transaction stays open while the bytes are written: where that takes long, stage them first
    (`storage.staged`) and call `add_file` in a transaction of its own.
    """
    with storage.staged(project_id, chunks) as staged:
        return add_file(session, staged, project_id, filename=filename, purpose=purpose, lifetime=lifetime)


def add_file(
    session: Session,
    staged: Staged,
    project_id: str,
    *,
    filename: str,
    purpose: str,
    lifetime: int | None = None,
) -> File:
    """Keep staged bytes and write their row; nobody deletes the bytes between the two.

    It expires `lifetime` seconds after its `created_at`, by the database's clock.
    """
    blob = keep_blob(session, staged)
    row = File(id=new_id("file-"), project_id=project_id, filename=filename, purpose=purpose)
    if lifetime is not None:
        row.expires_at = sa.func.now() + timedelta(seconds=lifetime)
    row.bytes, row.sha256, row.blob_key = blob.size, blob.sha256, blob.key
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def remove_file(session: Session, storage: Storage, row: File) -> None:
    """Delete the row, and its bytes if nothing else of the project has the same."""
    session.delete(row)
    release_blobs(session, storage, row.project_id, [row.blob_key])


def keep_blob(session: Session, staged: Staged) -> Blob:
    """Keep staged bytes whose row the caller writes in this transaction; nobody deletes them between the two."""
    lock_blobs(session, [staged.blob.key])
    return staged.keep()


def release_blobs(session: Session, storage: Storage, project_id: str, keys: Iterable[str]) -> None:
    """Delete the bytes that no row names any more, once the caller has deleted its own rows and has committed that.

    Not before: a commit may fail, and its rows would be there again and name bytes that are gone.
    """
    for key in sorted(set(keys)):
        after_commit(session, partial(_delete_unnamed, storage=storage, project_id=project_id, key=key))


def _delete_unnamed(database: Database, *, storage: Storage, project_id: str, key: str) -> None:
    """Delete the bytes unless a row names them, also one that came since they were let go."""
    try:
        with database.transaction(project_id) as session:
            lock_blobs(session, [key])
            if not blob_is_used(session, key):
                storage.delete(project_id, key)
    except (SQLAlchemyError, OSError) as error:
        # what let them go has happened: bytes that stay take room, an error would deny what is done
        log.warning("bytes that nothing names stay", key=key, error=str(error).splitlines()[0])


def lock_blobs(session: Session, keys: Iterable[str]) -> None:
    """Hold off other uploads and deletions of these bytes until the transaction ends."""
    for key in sorted(set(keys)):  # in one order everywhere, or two transactions could wait for each other
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(key, 0))))


def blob_is_used(session: Session, blob_key: str) -> bool:
    """Whether any row of the project still names these bytes."""
    named = [_names(table, column, blob_key) for table, column in BLOB_COLUMNS]
    return bool(session.scalar(sa.select(sa.or_(*named))))


def _names(table: str, column: str, blob_key: str) -> Any:
    key: sa.ColumnClause[str] = sa.column(column, sa.Text())
    return sa.exists(sa.select(sa.literal(1)).select_from(sa.table(table, key)).where(key == blob_key))
