"""Uploads and their parts."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from shared.database import Base, TenantRow

_MOMENT = sa.TIMESTAMP(timezone=True)


class Upload(TenantRow, Base):
    """A file that arrives in parts. Once completed, `part_ids` are those it was made of and `file_id` is the file."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(primary_key=True)
    filename: Mapped[str]
    mime_type: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int] = mapped_column(sa.BigInteger)
    status: Mapped[str] = mapped_column(server_default="pending")
    """pending, completed, cancelled or expired; a pending one past `expires_at` is expired too."""
    file_lifetime: Mapped[int | None]
    """Seconds that the file is to be kept once it is made; None keeps it."""
    file_id: Mapped[str | None]
    part_ids: Mapped[list[Any] | None]
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
    expires_at: Mapped[datetime] = mapped_column(_MOMENT)


class UploadPart(TenantRow, Base):
    """Bytes of an upload; the rows and the bytes go when the upload leaves `pending`."""

    __tablename__ = "upload_parts"

    id: Mapped[str] = mapped_column(primary_key=True)
    upload_id: Mapped[str]
    bytes: Mapped[int] = mapped_column(sa.BigInteger)
    blob_key: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
