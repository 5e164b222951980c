"""Tenants and their keys (only a keyed hash of one is stored), their use of tokens, the audit log, first answers."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from shared.database import Base, TenantRow

_MOMENT = sa.TIMESTAMP(timezone=True)


class Organisation(Base):
    __tablename__ = "organisations"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())


class Project(Base):
    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation_id: Mapped[str]
    name: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())


class ApiKey(TenantRow, Base):
    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    key_hash: Mapped[str]
    hint: Mapped[str]
    scopes: Mapped[list[str]] = mapped_column(sa.ARRAY(sa.Text))
    expires_at: Mapped[datetime | None] = mapped_column(_MOMENT)
    revoked_at: Mapped[datetime | None] = mapped_column(_MOMENT)
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())


class AuditEntry(TenantRow, Base):
    """One request that changed something, or tried to. Rows are never changed: triggers refuse it to everybody."""

    __tablename__ = "audit_log"

    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
    key_id: Mapped[str]
    method: Mapped[str]
    path: Mapped[str]
    object_id: Mapped[str | None]
    status: Mapped[int]
    request_id: Mapped[str]


class IdempotencyRecord(TenantRow, Base):
    """A request's first answer; `status` is None while the request whose `claim` it is still runs."""

    __tablename__ = "idempotency_records"

    project_id: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    claim: Mapped[str]
    request_sha256: Mapped[str | None]
    status: Mapped[int | None]
    headers: Mapped[dict[str, Any] | None]
    body: Mapped[bytes | None]
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
    expires_at: Mapped[datetime] = mapped_column(_MOMENT)
