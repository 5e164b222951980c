"""Evaluations, answers, experiments, their steps, and every look at a test split."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rls import protect

revision = "0006"
down_revision = "0005"

_MOMENT = sa.TIMESTAMP(timezone=True)


def upgrade() -> None:
    _experiments()
    _evaluations()
    protect(op, "experiments")
    protect(op, "experiment_reports")
    protect(op, "experiment_steps")
    protect(op, "evaluations")
    protect(op, "answers")
    # looks are never taken back: no UPDATE, no DELETE
    protect(op, "test_looks", grants="SELECT, INSERT")


def downgrade() -> None:
    for table in ("test_looks", "answers", "evaluations", "experiment_steps", "experiment_reports", "experiments"):
        op.drop_table(table)


def _project() -> sa.Column[str]:
    return sa.Column("project_id", sa.Text, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False)


def _experiment() -> sa.Column[str]:
    return sa.Column("experiment_id", sa.Text, sa.ForeignKey("experiments.id", ondelete="CASCADE"), primary_key=True)


def _moment(name: str) -> sa.Column[object]:
    return sa.Column(name, _MOMENT, nullable=False, server_default=sa.func.now())


def _experiments() -> None:
    op.create_table(
        "experiments",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("dataset_id", sa.Text, nullable=False),
        sa.Column("vector_store_id", sa.Text),
        sa.Column("base_model", sa.Text, nullable=False),
        sa.Column("spec", JSONB, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("error", JSONB),
        _moment("created_at"),
        sa.Column("finished_at", _MOMENT),
        sa.CheckConstraint("status IN ('running', 'succeeded', 'failed', 'cancelled')", name="experiments_status"),
    )
    op.create_index("experiments_by_project", "experiments", ["project_id", "created_at", "id"])
    op.create_table(
        "experiment_reports",
        _experiment(),
        _project(),
        sa.Column("report", JSONB, nullable=False),
        sa.Column("markdown_key", sa.Text),
        sa.Column("html_key", sa.Text),
    )
    op.create_table(
        "experiment_steps",
        _experiment(),
        sa.Column("name", sa.Text, primary_key=True),
        _project(),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("depends_on", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("params", JSONB, nullable=False),
        sa.Column("subject_id", sa.Text),
        sa.Column("job_id", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("result", JSONB),
        sa.Column("error", JSONB),
        sa.CheckConstraint(
            "status IN ('waiting', 'running', 'succeeded', 'failed', 'cancelled', 'skipped')",
            name="experiment_steps_status",
        ),
    )


def _evaluations() -> None:
    op.create_table(
        "evaluations",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("experiment_id", sa.Text, sa.ForeignKey("experiments.id", ondelete="CASCADE")),
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("variant_id", sa.Text),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("dataset_id", sa.Text, nullable=False),
        sa.Column("split", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("metric", sa.Text, nullable=False),
        sa.Column("examples_limit", sa.Integer),
        sa.Column("seed", sa.Integer, nullable=False),
        sa.Column("max_tokens", sa.Integer),
        sa.Column("summary", JSONB),
        _moment("created_at"),
        sa.CheckConstraint("split IN ('train', 'validation', 'test')", name="evaluations_split"),
        sa.CheckConstraint("purpose IN ('choice', 'test', 'single')", name="evaluations_purpose"),
    )
    op.create_index("evaluations_by_project", "evaluations", ["project_id", "created_at", "id"])
    op.create_index("evaluations_by_experiment", "evaluations", ["experiment_id"])
    op.create_table(
        "answers",
        sa.Column("evaluation_id", sa.Text, sa.ForeignKey("evaluations.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("example_id", sa.Text, primary_key=True),
        _project(),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("scores", JSONB, nullable=False),
        sa.Column("retrieval_hit", sa.Boolean),
        sa.Column("passages", JSONB),
        sa.Column("finish_reason", sa.Text, nullable=False),
        sa.Column("prompt_tokens", sa.Integer, nullable=False),
        sa.Column("completion_tokens", sa.Integer, nullable=False),
        sa.Column("latency_ms", sa.Float, nullable=False),
        _moment("created_at"),
    )
    # no foreign keys to evaluations or experiments: a look stays counted when they are deleted
    op.create_table(
        "test_looks",
        sa.Column("evaluation_id", sa.Text, primary_key=True),
        _project(),
        sa.Column("dataset_id", sa.Text, nullable=False),
        sa.Column("dataset_sha256", sa.Text, nullable=False),
        sa.Column("experiment_id", sa.Text),
        _moment("at"),
    )
    op.create_index("test_looks_by_dataset", "test_looks", ["project_id", "dataset_sha256"])
