"""Tables of the training service."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rls import protect

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "training_jobs",
        sa.Column("id", sa.Text, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        _project(),
        sa.Column("base_model", sa.Text, nullable=False),
        sa.Column("dataset_id", sa.Text),
        sa.Column("training_file", sa.Text),
        sa.Column("validation_file", sa.Text),
        sa.Column("recipe", JSONB, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("suffix", sa.Text),
        sa.Column("init_adapter_id", sa.Text),
        sa.Column("prompt", JSONB, nullable=False),
        sa.Column("max_passage_tokens", sa.Integer),
        sa.Column("metadata", JSONB, nullable=False),
        sa.Column("fine_tuned_model", sa.Text),
        sa.Column("trained_tokens", sa.BigInteger),
        _created_at(),
        sa.CheckConstraint(
            "(dataset_id IS NULL) <> (training_file IS NULL)", name="training_jobs_one_source"
        ),
    )
    op.create_index("training_jobs_by_project", "training_jobs", ["project_id", "created_at", "id"])
    op.create_table(
        "adapters",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("model_id", sa.Text, nullable=False),
        sa.Column("base_model", sa.Text, nullable=False),
        sa.Column("blob_key", sa.Text, nullable=False),
        sa.Column("job_id", sa.Text, nullable=False, unique=True),
        sa.Column("dataset_id", sa.Text),
        sa.Column("recipe", JSONB, nullable=False),
        sa.Column("metrics", JSONB, nullable=False),
        sa.Column("train_seconds", sa.Double, nullable=False),
        sa.Column("trained_tokens", sa.BigInteger, nullable=False),
        _created_at(),
        sa.UniqueConstraint("project_id", "model_id"),
    )
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("job_id", sa.Text, sa.ForeignKey("training_jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("metrics", JSONB, nullable=False),
        sa.Column("blob_key", sa.Text),
        _created_at(),
        sa.UniqueConstraint("job_id", "step"),
    )
    for table in ("training_jobs", "adapters", "checkpoints"):
        protect(op, table)


def downgrade() -> None:
    for table in ("checkpoints", "adapters", "training_jobs"):
        op.drop_table(table)


def _project() -> sa.Column[str]:
    return sa.Column("project_id", sa.Text, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False)


def _created_at() -> sa.Column[object]:
    return sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now())
