"""The tables that only retrieval writes. Vectors are halfvec without a fixed length: a store names its embedder."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from services.retrieval.domain import expires_at
from shared.database import Base, TenantRow

_MOMENT = sa.TIMESTAMP(timezone=True)


class VectorStore(TenantRow, Base):
    __tablename__ = "vector_stores"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    description: Mapped[str | None]
    embedder: Mapped[str]
    chunking: Mapped[dict[str, Any]]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata")
    status: Mapped[str] = mapped_column(server_default="in_progress")
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
    last_active_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
    expires_days: Mapped[int | None]

    @property
    def expires_at(self) -> datetime | None:
        return expires_at(self.last_active_at, self.expires_days)

    def is_expired(self, moment: datetime) -> bool:
        """Final once its time is over, whether or not its passages are swept already."""
        return self.status == "expired" or (self.expires_at is not None and self.expires_at <= moment)


class VectorStoreFile(TenantRow, Base):
    __tablename__ = "vector_store_files"

    vector_store_id: Mapped[str] = mapped_column(primary_key=True)
    file_id: Mapped[str] = mapped_column(primary_key=True)
    filename: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="in_progress")
    last_error: Mapped[dict[str, Any] | None]
    attributes: Mapped[dict[str, Any]]
    usage_bytes: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    chunking: Mapped[dict[str, Any] | None]
    """None for the store's own; of a file that is indexed, what it was cut by."""
    job_id: Mapped[str | None]
    """The job that is to index it, or was: no other may."""
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())


class FileBatch(TenantRow, Base):
    """Files attached together. `file_counts` is written once, when the batch is over."""

    __tablename__ = "vector_store_batches"

    id: Mapped[str] = mapped_column(primary_key=True)
    vector_store_id: Mapped[str]
    job_id: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="in_progress")
    file_counts: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())


class FileOfBatch(TenantRow, Base):
    __tablename__ = "vector_store_batch_files"

    batch_id: Mapped[str] = mapped_column(primary_key=True)
    file_id: Mapped[str] = mapped_column(primary_key=True)
    vector_store_id: Mapped[str]


class Document(TenantRow, Base):
    __tablename__ = "documents"

    id: Mapped[str] = mapped_column(primary_key=True)
    vector_store_id: Mapped[str]
    file_id: Mapped[str]
    key: Mapped[str]
    title: Mapped[str]


class PassageRow(TenantRow, Base):
    __tablename__ = "passages"

    id: Mapped[str] = mapped_column(primary_key=True)
    vector_store_id: Mapped[str]
    document_id: Mapped[str]
    position: Mapped[int]
    title: Mapped[str]
    text: Mapped[str]
    tokens: Mapped[int]
    embedding: Mapped[Any] = mapped_column(HALFVEC())
    search: Mapped[Any] = mapped_column(TSVECTOR)
