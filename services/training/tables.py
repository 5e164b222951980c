"""The tables that only training writes."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from shared.database import Base, TenantRow

_MOMENT = sa.TIMESTAMP(timezone=True)


class TrainingJob(TenantRow, Base):
    """What to train; its state is the `jobs` row of the same id."""

    __tablename__ = "training_jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    base_model: Mapped[str]
    dataset_id: Mapped[str | None]
    training_file: Mapped[str | None]
    validation_file: Mapped[str | None]
    replay_file: Mapped[str | None]
    recipe: Mapped[dict[str, Any]]
    seed: Mapped[int] = mapped_column(sa.BigInteger)
    suffix: Mapped[str | None]
    init_adapter_id: Mapped[str | None]
    prompt: Mapped[dict[str, Any]]
    max_passage_tokens: Mapped[int | None]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata")
    auto: Mapped[list[Any]] = mapped_column(server_default="[]")
    """Names of the hyperparameters that wait for the data; empty once the recipe has their numbers."""
    validated_at: Mapped[datetime | None] = mapped_column(_MOMENT)
    """When the data was found good and training began for the first time."""
    resume_step: Mapped[int | None]
    resume_blob_key: Mapped[str | None]
    """What an interrupted run goes on from, as of `resume_step`; gone when the job ends."""
    resume_bytes: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    """Of that state: weights and an optimiser's moments."""
    micro_batch_tokens: Mapped[int | None]
    """In place of the recipe's, since memory ran out once."""
    max_minutes: Mapped[float | None] = mapped_column(sa.Double)
    """The budget: a run that is estimated to take longer is refused before its first step."""
    result_files: Mapped[list[Any]] = mapped_column(server_default="[]")
    fine_tuned_model: Mapped[str | None]
    trained_tokens: Mapped[int | None] = mapped_column(sa.BigInteger)
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())


class HeldFile(TenantRow, Base):
    """A file that an unfinished training job or search reads, whatever became of its `files` row.

    `param` is the field that names it, or the vector store it is the `position`-th file of.
    """

    __tablename__ = "held_files"

    owner_id: Mapped[str] = mapped_column(primary_key=True)
    param: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    filename: Mapped[str]
    blob_key: Mapped[str]
    bytes: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")


class AdapterRow(TenantRow, Base):
    """LoRA weights that a training job produced; `blob_key` names a folder that peft loads."""

    __tablename__ = "adapters"

    id: Mapped[str] = mapped_column(primary_key=True)
    model_id: Mapped[str]
    base_model: Mapped[str]
    blob_key: Mapped[str]
    bytes: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    """0 for weights that are older than this column."""
    job_id: Mapped[str]
    dataset_id: Mapped[str | None]
    recipe: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]
    train_seconds: Mapped[float] = mapped_column(sa.Double)
    trained_tokens: Mapped[int] = mapped_column(sa.BigInteger)
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())


class CheckpointRow(TenantRow, Base):
    """The weights of one step as a model of their own; a job keeps the last three and the best. `blob_key` is as an
    adapter's."""

    __tablename__ = "checkpoints"

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str]
    step: Mapped[int]
    metrics: Mapped[dict[str, Any]]
    model_id: Mapped[str]
    base_model: Mapped[str]
    blob_key: Mapped[str]
    bytes: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    """0 for weights that are older than this column."""
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
