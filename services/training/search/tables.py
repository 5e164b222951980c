"""The tables that only search writes. Optuna's own lie in the schema `optuna` and hold numbers only."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from shared.database import Base, TenantRow

_MOMENT = sa.TIMESTAMP(timezone=True)


class SearchRow(TenantRow, Base):
    """A search: what it trains on, what it varies and what it may use. Its study in Optuna has the row's id as name."""

    __tablename__ = "searches"

    id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]
    base_model: Mapped[str]
    init_adapter_id: Mapped[str | None]
    dataset_id: Mapped[str | None]
    training_file: Mapped[str | None]
    validation_file: Mapped[str | None]
    prompt: Mapped[dict[str, Any]]
    max_passage_tokens: Mapped[int | None]
    recipe: Mapped[dict[str, Any]]
    """The base: every field, also those that the space varies."""
    space: Mapped[dict[str, Any]]
    trials: Mapped[int]
    minutes: Mapped[float | None] = mapped_column(sa.Double)
    parallel: Mapped[int]
    pruning: Mapped[bool]
    seed: Mapped[int] = mapped_column(sa.BigInteger)
    suffix: Mapped[str | None]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata")
    used_seconds: Mapped[float] = mapped_column(sa.Double)
    """Without the present stretch, which began at `running_since`; pauses don't count."""
    running_since: Mapped[datetime | None] = mapped_column(_MOMENT)
    alarm_id: Mapped[str | None]
    """The job that wakes the search when its minutes are used up."""
    importance: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
    finished_at: Mapped[datetime | None] = mapped_column(_MOMENT)


class TrialRow(TenantRow, Base):
    """One trial; `number` is Optuna's, `params` is its point of the space, `job_id` its fine-tuning job."""

    __tablename__ = "search_trials"

    id: Mapped[str] = mapped_column(primary_key=True)
    search_id: Mapped[str]
    number: Mapped[int]
    job_id: Mapped[str]
    params: Mapped[dict[str, Any]]
    status: Mapped[str]
    value: Mapped[float | None] = mapped_column(sa.Double)
    """The lowest validation loss of the run so far, nats per completion token."""
    curve: Mapped[list[Any]]
    """One entry a validation: step, total_steps, epoch, train_loss, valid_loss."""
    reason: Mapped[dict[str, Any] | None]
    """Why it was stopped or failed: code and message. Set when the stop is ordered."""
    model_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
    finished_at: Mapped[datetime | None] = mapped_column(_MOMENT)
