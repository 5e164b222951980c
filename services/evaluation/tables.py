"""The tables only this service writes: evaluations, answers, experiments, their steps, looks at test splits."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from shared.database import Base, TenantRow

_MOMENT = sa.TIMESTAMP(timezone=True)


class Evaluation(TenantRow, Base):
    """One model answering one split. Its state is its job's: there is no second truth to keep in step."""

    __tablename__ = "evaluations"

    id: Mapped[str] = mapped_column(primary_key=True)
    experiment_id: Mapped[str | None]
    job_id: Mapped[str]
    variant_id: Mapped[str | None]
    model: Mapped[str]
    """The id that is asked: a variant's, or any other model id."""
    dataset_id: Mapped[str]
    split: Mapped[str]
    purpose: Mapped[str]
    """choice (on validation), test (for a report), or single (asked for by itself)"""
    metric: Mapped[str]
    examples_limit: Mapped[int | None]
    seed: Mapped[int]
    max_tokens: Mapped[int | None]
    summary: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())


class Answer(TenantRow, Base):
    """What a model answered to one example, with its scores."""

    __tablename__ = "answers"

    evaluation_id: Mapped[str] = mapped_column(primary_key=True)
    example_id: Mapped[str] = mapped_column(primary_key=True)
    answer: Mapped[str]
    scores: Mapped[dict[str, Any]]
    """metric → score, the retrieval metrics among them where documents were retrieved and a gold one is known"""
    retrieval_hit: Mapped[bool | None]
    """Whether a gold document was among the retrieved; None where nothing was retrieved or none is known."""
    passages: Mapped[list[Any] | None]
    finish_reason: Mapped[str]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    latency_ms: Mapped[float]
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())


class ExperimentRow(TenantRow, Base):
    """An experiment: its whole order and where it stands."""

    __tablename__ = "experiments"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    dataset_id: Mapped[str]
    vector_store_id: Mapped[str | None]
    base_model: Mapped[str]
    spec: Mapped[dict[str, Any]]
    status: Mapped[str]
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
    finished_at: Mapped[datetime | None] = mapped_column(_MOMENT)


class ReportRow(TenantRow, Base):
    """An experiment's report. A table of its own: who writes it holds its job's lock and must not want the
    experiment's, which the state machine takes the other way round."""

    __tablename__ = "experiment_reports"

    experiment_id: Mapped[str] = mapped_column(primary_key=True)
    report: Mapped[dict[str, Any]]
    markdown_key: Mapped[str | None]
    html_key: Mapped[str | None]
    """The rendered pages in the blob store, once the report is finished."""


class StepRow(TenantRow, Base):
    """One step of an experiment; `position` is its place in the plan."""

    __tablename__ = "experiment_steps"

    experiment_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]
    kind: Mapped[str]
    depends_on: Mapped[list[str]] = mapped_column(sa.ARRAY(sa.Text))
    params: Mapped[dict[str, Any]]
    subject_id: Mapped[str | None]
    job_id: Mapped[str | None]
    status: Mapped[str]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]


class TestLook(TenantRow, Base):
    """A test split was opened by an evaluation. Rows are added only: a rerun is another look."""

    __test__ = False  # pytest collects classes by their name
    __tablename__ = "test_looks"

    evaluation_id: Mapped[str] = mapped_column(primary_key=True)
    dataset_id: Mapped[str]
    dataset_sha256: Mapped[str]
    """The same examples imported again are the same test split, so looks are counted by this."""
    experiment_id: Mapped[str | None]
    at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
