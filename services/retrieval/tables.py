"""The tables that only retrieval writes. Vectors are halfvec without a fixed length: a store names its embedder."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from shared.database import Base, TenantRow

_MOMENT = sa.TIMESTAMP(timezone=True)


class VectorStore(TenantRow, Base):
    __tablename__ = "vector_stores"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    embedder: Mapped[str]
    chunking: Mapped[dict[str, Any]]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata")
    status: Mapped[str] = mapped_column(server_default="in_progress")
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
    last_active_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())


class VectorStoreFile(TenantRow, Base):
    __tablename__ = "vector_store_files"

    vector_store_id: Mapped[str] = mapped_column(primary_key=True)
    file_id: Mapped[str] = mapped_column(primary_key=True)
    filename: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="in_progress")
    last_error: Mapped[dict[str, Any] | None]
    attributes: Mapped[dict[str, Any]]
    usage_bytes: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())


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
