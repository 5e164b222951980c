"""The jobs table, its events and the outbox; the states are guarded by triggers in the first migration."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from shared.database import Base, TenantRow

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
_MOMENT = sa.TIMESTAMP(timezone=True)


class Job(TenantRow, Base):
    """A durable unit of work. `fence` grows with every claim; a worker writes only while its fence is current."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    queue: Mapped[str]
    payload: Mapped[dict[str, Any]]
    subject_id: Mapped[str | None]
    parent_id: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default="queued")
    attempt: Mapped[int] = mapped_column(server_default="0")
    max_attempts: Mapped[int] = mapped_column(server_default="3")
    fence: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    worker: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None] = mapped_column(_MOMENT)
    run_after: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
    woken_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
    cancel_requested: Mapped[bool] = mapped_column(server_default=sa.false())
    pause_requested: Mapped[bool] = mapped_column(server_default=sa.false())
    progress: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    notify_kind: Mapped[str | None]
    notify_queue: Mapped[str | None]
    dedupe_key: Mapped[str | None]
    request_id: Mapped[str | None]
    trace_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
    started_at: Mapped[datetime | None] = mapped_column(_MOMENT)
    finished_at: Mapped[datetime | None] = mapped_column(_MOMENT)


class JobEvent(TenantRow, Base):
    """What a job said while it ran; a (job, type, step) is written once, so a resumed run repeats no step."""

    __tablename__ = "job_events"

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    job_id: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
    level: Mapped[str]
    type: Mapped[str]
    message: Mapped[str]
    data: Mapped[dict[str, Any] | None]
    step: Mapped[int | None]


class Outbox(TenantRow, Base):
    """Wake-ups that are committed but not yet published; the relay takes them away as it publishes."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    job_id: Mapped[str]
    queue: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
