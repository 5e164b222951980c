"""The tables that only the data service writes: datasets and examples (files are written through shared/files.py)."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from shared.database import Base, TenantRow

_MOMENT = sa.TIMESTAMP(timezone=True)


class Dataset(TenantRow, Base):
    """An immutable version of examples once it is `ready`; `spec` is what was asked, `lineage` what it came from."""

    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="pending")
    sha256: Mapped[str | None]
    sizes: Mapped[dict[str, Any] | None]
    report: Mapped[dict[str, Any] | None]
    lineage: Mapped[dict[str, Any]]
    spec: Mapped[dict[str, Any]]
    job_id: Mapped[str | None]
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())


class ExampleRow(TenantRow, Base):
    """One example of one dataset; its id follows from the dataset's and its position, so a rerun writes the same."""

    __tablename__ = "examples"

    id: Mapped[str] = mapped_column(primary_key=True)
    dataset_id: Mapped[str]
    position: Mapped[int]
    split: Mapped[str]
    messages: Mapped[list[Any]]
    answer: Mapped[str]
    documents: Mapped[list[str]] = mapped_column(ARRAY(sa.Text))
    cluster: Mapped[str]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB)
    provenance: Mapped[dict[str, Any]]
    passages: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))
