"""The tables that only generation writes. Prompts and variants are immutable; a release points to a variant."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from shared.database import Base, TenantRow

_MOMENT = sa.TIMESTAMP(timezone=True)


class Prompt(TenantRow, Base):
    __tablename__ = "prompts"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    version: Mapped[int]
    digest: Mapped[str]
    spec: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())


class Variant(TenantRow, Base):
    __tablename__ = "variants"

    id: Mapped[str] = mapped_column(primary_key=True)
    model_id: Mapped[str]
    name: Mapped[str]
    digest: Mapped[str]
    base_model: Mapped[str]
    adapter_id: Mapped[str | None]
    prompt_id: Mapped[str | None]
    retrieval: Mapped[dict[str, Any] | None]
    sampling: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())


class Release(TenantRow, Base):
    __tablename__ = "releases"

    id: Mapped[str] = mapped_column(primary_key=True)
    model_id: Mapped[str]
    variant_id: Mapped[str]
    history: Mapped[list[Any]]
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
    updated_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
