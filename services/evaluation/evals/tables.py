"""The tables that only Evals write: evals, their runs, the runs' items, and every grade."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from shared.database import Base, TenantRow

_MOMENT = sa.TIMESTAMP(timezone=True)
_NULLABLE = JSONB(none_as_null=True)
"""None is no value at all, not JSON's null."""


class EvalRow(TenantRow, Base):
    """What good answers are: the schema of the rows and the criteria. Neither ever changes."""

    __tablename__ = "evals"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    item_schema: Mapped[dict[str, Any]]
    include_sample_schema: Mapped[bool]
    testing_criteria: Mapped[list[Any]]
    metadata_: Mapped[dict[str, Any] | None] = mapped_column("metadata", _NULLABLE)
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
    updated_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())


class EvalRunRow(TenantRow, Base):
    """One pass over a data source. Its state is its job's: there is no second truth to keep in step."""

    __tablename__ = "eval_runs"

    id: Mapped[str] = mapped_column(primary_key=True)
    eval_id: Mapped[str]
    job_id: Mapped[str]
    name: Mapped[str]
    model: Mapped[str | None]
    data_source: Mapped[dict[str, Any]]
    metadata_: Mapped[dict[str, Any] | None] = mapped_column("metadata", _NULLABLE)
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())


class OutputItemRow(TenantRow, Base):
    """A row of the data source once it has its answer; its status comes with its last grade."""

    __tablename__ = "eval_output_items"

    run_id: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    """The row's place in the data source, from 0."""
    id: Mapped[str]
    status: Mapped[str | None]
    item: Mapped[dict[str, Any]]
    sample: Mapped[dict[str, Any]]
    """What was asked and said, in OpenAI's shape."""
    model: Mapped[str | None]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())


class GradeRow(TenantRow, Base):
    """What one criterion, by its place in the eval, said about one item."""

    __tablename__ = "eval_grades"

    run_id: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    criterion: Mapped[int] = mapped_column(primary_key=True)
    passed: Mapped[bool | None]
    score: Mapped[float | None]
    error: Mapped[dict[str, Any] | None] = mapped_column(_NULLABLE)
    sample: Mapped[dict[str, Any] | None] = mapped_column(_NULLABLE)
    model: Mapped[str | None]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
