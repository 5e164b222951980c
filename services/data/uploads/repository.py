"""Every query about uploads; nothing here commits."""

from typing import Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.data.errors import UploadMissing, UploadNotPending
from services.data.uploads.tables import Upload, UploadPart

Lock = Literal["none", "share", "alone"]


def get_upload(session: Session, upload_id: str, *, lock: Lock = "none") -> Upload:
    """The project's upload, or UploadMissing. Parts share it; whoever changes its state has it alone."""
    query = sa.select(Upload).where(Upload.id == upload_id)
    if lock != "none":
        query = query.with_for_update(read=lock == "share", key_share=lock == "alone")
    found = session.scalars(query).one_or_none()
    if found is None:
        raise UploadMissing(f"There is no upload {upload_id!r} in this project.", param="upload_id")
    return found


def pending_upload(session: Session, upload_id: str, *, lock: Lock = "none") -> Upload:
    """The upload, or UploadNotPending when it takes no more parts and cannot be completed or cancelled."""
    found = get_upload(session, upload_id, lock=lock)
    require_pending(session, found)
    return found


def require_pending(session: Session, upload: Upload) -> None:
    """Raise UploadNotPending, which names the state."""
    status = upload.status
    if status == "pending" and upload.expires_at <= session.scalars(sa.select(sa.func.now())).one():
        status = "expired"
    if status != "pending":
        raise UploadNotPending(f"Upload {upload.id} is {status}: create a new one.", param="upload_id")


def announced_bytes(session: Session) -> int:
    """What the project's pending uploads may still become."""
    pending = (Upload.status == "pending", Upload.expires_at > sa.func.now())
    return int(session.scalars(sa.select(sa.func.coalesce(sa.func.sum(Upload.bytes), 0)).where(*pending)).one())


def stored_bytes(session: Session, upload_id: str) -> int:
    """Bytes of all parts so far, those that were sent twice included."""
    total = sa.select(sa.func.coalesce(sa.func.sum(UploadPart.bytes), 0)).where(UploadPart.upload_id == upload_id)
    return int(session.scalars(total).one())


def parts_of(session: Session, upload_id: str) -> list[UploadPart]:
    return list(session.scalars(sa.select(UploadPart).where(UploadPart.upload_id == upload_id)))


def expired_uploads(session: Session, limit: int) -> list[Upload]:
    """Uploads whose hour is over and whose parts may go."""
    over = (Upload.status == "pending", Upload.expires_at <= sa.func.now())
    query = sa.select(Upload).where(*over).order_by(Upload.expires_at).limit(limit)
    return list(session.scalars(query.with_for_update(key_share=True, skip_locked=True)))
