"""Batches, and the answers to their lines until these are written to files."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from shared.database import Base, TenantRow

_MOMENT = sa.TIMESTAMP(timezone=True)


class Batch(TenantRow, Base):
    """A file of requests and where its answering stands."""

    __tablename__ = "batches"

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str]
    """The job that asks the lines; its end, whatever it is, orders the files to be written."""
    endpoint: Mapped[str]
    input_file_id: Mapped[str]
    input_blob_key: Mapped[str | None]
    """Holds on to the input's bytes until the batch is over, even if its file is deleted meanwhile."""
    metadata_: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSONB(none_as_null=True))
    output_lifetime: Mapped[int | None]
    """Seconds that the files of answers are to be kept; None keeps them."""
    model: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default="validating")
    errors: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))
    total: Mapped[int] = mapped_column(server_default="0")
    completed: Mapped[int] = mapped_column(server_default="0")
    failed: Mapped[int] = mapped_column(server_default="0")
    input_tokens: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    output_tokens: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    output_file_id: Mapped[str | None]
    error_file_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
    expires_at: Mapped[datetime] = mapped_column(_MOMENT)
    in_progress_at: Mapped[datetime | None] = mapped_column(_MOMENT)
    finalizing_at: Mapped[datetime | None] = mapped_column(_MOMENT)
    completed_at: Mapped[datetime | None] = mapped_column(_MOMENT)
    failed_at: Mapped[datetime | None] = mapped_column(_MOMENT)
    expired_at: Mapped[datetime | None] = mapped_column(_MOMENT)
    cancelling_at: Mapped[datetime | None] = mapped_column(_MOMENT)
    cancelled_at: Mapped[datetime | None] = mapped_column(_MOMENT)


class BatchAnswer(TenantRow, Base):
    """The answer to one line, written as it comes, so that a resumed batch asks only what is missing."""

    __tablename__ = "batch_answers"

    batch_id: Mapped[str] = mapped_column(primary_key=True)
    line: Mapped[int] = mapped_column(primary_key=True)
    custom_id: Mapped[str]
    status_code: Mapped[int]
    request_id: Mapped[str]
    body: Mapped[str]
    """The answer or the error as JSON text: jsonb could not hold every string that JSON can."""
    input_tokens: Mapped[int]
    output_tokens: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
