"""Use cases of uploads: announce, take parts, put together, cancel, expire."""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import IO, Any

from sqlalchemy.orm import Session

from services.data.errors import InvalidUpload, UploadRefused
from services.data.file_rules import check_name, check_purpose
from services.data.settings import DataSettings
from services.data.uploads import repository
from services.data.uploads.schemas import CompleteUpload, CreateUpload
from services.data.uploads.tables import Upload, UploadPart
from shared import quotas
from shared.clock import now
from shared.files import File, add_file, keep_blob, release_blobs
from shared.ids import new_id
from shared.storage import Staged, Storage
from shared.wiring import Wiring

LIFETIME = timedelta(hours=1)
_CHUNK = 1 << 20


def create_upload(session: Session, project_id: str, order: CreateUpload) -> Upload:
    """Announce a file; its parts may come for one hour. What is announced counts as stored, so that it will fit."""
    check_purpose(order.purpose)
    check_name(order.filename, param="filename")
    check_name(order.mime_type, param="mime_type")
    settings = DataSettings()
    most = settings.max_chunked_bytes
    if order.bytes > most:
        raise UploadRefused(f"bytes: {order.bytes} is more than the limit of {most}.", param="bytes")
    quotas.claim_storage(session, project_id, order.bytes + repository.announced_bytes(session), settings)
    row = Upload(id=new_id("upload_"), project_id=project_id, filename=order.filename, mime_type=order.mime_type)
    row.purpose, row.bytes, row.expires_at = order.purpose, order.bytes, now() + LIFETIME
    row.file_lifetime = order.expires_after.seconds if order.expires_after else None
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def add_part(parts: Wiring, project_id: str, upload_id: str, content: IO[bytes]) -> UploadPart:
    """Keep one part; parts come in any order and many at once."""
    limit = DataSettings().max_part_bytes
    with (
        parts.storage.staged(project_id, content, limit=limit) as staged,
        parts.database.transaction(project_id) as session,
    ):
        upload = repository.pending_upload(session, upload_id, lock="share")
        _refuse_surplus(session, upload, staged.blob.size)
        blob = keep_blob(session, staged)
        row = UploadPart(id=new_id("part_"), project_id=project_id, upload_id=upload_id)
        row.bytes, row.blob_key = blob.size, blob.key
        session.add(row)
        session.flush()
        session.refresh(row)
        return row


def complete_upload(parts: Wiring, project_id: str, upload_id: str, order: CompleteUpload) -> tuple[Upload, File]:
    """Make the file of the named parts; the same order again answers the same file."""
    with parts.database.transaction(project_id) as session:
        # held to the end: whoever completes or cancels meanwhile waits, and finds it done
        upload = repository.get_upload(session, upload_id, lock="alone")
        done = _completed(session, upload, order)
        if done is not None:
            return upload, done
        chosen = _chosen(session, upload, order.part_ids)
        digest = hashlib.md5(usedforsecurity=False)
        whole = _hashed(_contents(parts.storage, project_id, chosen), digest)
        with parts.storage.staged(project_id, whole) as staged:
            if order.md5 is not None and digest.hexdigest() != order.md5.lower():
                raise InvalidUpload(f"The parts' MD5 is {digest.hexdigest()}, not {order.md5}.", param="md5")
            quotas.claim_storage(session, project_id, staged.blob.size, parts.settings)
            file = _finish(session, parts.storage, upload, staged)
        upload.part_ids = list(order.part_ids)
        return upload, file


def cancel_upload(session: Session, storage: Storage, upload_id: str) -> Upload:
    """Give the upload up and drop its parts."""
    upload = repository.pending_upload(session, upload_id, lock="alone")
    upload.status = "cancelled"
    drop_parts(session, storage, upload)
    return upload


def expire_uploads(session: Session, storage: Storage, limit: int) -> int:
    """Mark uploads whose hour is over and drop their parts; answers how many there were."""
    expired = repository.expired_uploads(session, limit)
    for upload in expired:
        upload.status = "expired"
        drop_parts(session, storage, upload)
    return len(expired)


def drop_parts(session: Session, storage: Storage, upload: Upload) -> None:
    """Delete the parts' rows, and their bytes where nothing else has the same."""
    sent = repository.parts_of(session, upload.id)
    for part in sent:
        session.delete(part)
    release_blobs(session, storage, upload.project_id, [part.blob_key for part in sent])


def _finish(session: Session, storage: Storage, upload: Upload, staged: Staged) -> File:
    file = add_file(
        session,
        staged,
        upload.project_id,
        filename=upload.filename,
        purpose=upload.purpose,
        lifetime=upload.file_lifetime,
    )
    upload.status, upload.file_id = "completed", file.id
    drop_parts(session, storage, upload)
    return file


def _refuse_surplus(session: Session, upload: Upload, size: int) -> None:
    """A part may be sent again after a lost answer, but an upload is no place to keep other things."""
    if size == 0:
        raise InvalidUpload("The part is empty.", param="data")
    if size > upload.bytes or repository.stored_bytes(session, upload.id) + size > 2 * upload.bytes + _CHUNK:
        raise InvalidUpload(f"The parts hold more than the {upload.bytes} bytes that were announced.", param="data")


def _completed(session: Session, upload: Upload, order: CompleteUpload) -> File | None:
    """The file of an upload that was completed by this very order; None while it is pending, else a refusal."""
    if upload.status == "completed" and upload.part_ids == order.part_ids:
        file = session.get(File, upload.file_id)
        if file is not None:
            return file
    repository.require_pending(session, upload)
    return None


def _chosen(session: Session, upload: Upload, part_ids: Sequence[str]) -> list[UploadPart]:
    known = {part.id: part for part in repository.parts_of(session, upload.id)}
    for part_id in part_ids:
        if part_id not in known:
            raise InvalidUpload(f"{part_id[:100]!r} is no part of upload {upload.id}.", param="part_ids")
    if len(set(part_ids)) < len(part_ids):
        raise InvalidUpload("part_ids names a part twice.", param="part_ids")
    chosen = [known[part_id] for part_id in part_ids]
    total = sum(part.bytes for part in chosen)
    if total != upload.bytes:
        problem = f"The parts hold {total} bytes together, but {upload.bytes} were announced."
        raise InvalidUpload(problem, param="part_ids")
    return chosen


def _contents(storage: Storage, project_id: str, chosen: Sequence[UploadPart]) -> Iterator[bytes]:
    for part in chosen:
        with storage.open(project_id, part.blob_key) as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk


def _hashed(chunks: Iterator[bytes], digest: Any) -> Iterator[bytes]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
