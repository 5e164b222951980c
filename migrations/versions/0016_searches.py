"""Searches and their trials, and a schema of Optuna's own.

Optuna makes its tables itself, with its own alembic version table, at the first search. They hold numbers, and names
that are our searches' ids: no policy can tell there whose they are, so nothing reaches a study but by a search's row.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rls import protect

revision = "0016"
down_revision = "0013"
_MOMENT = sa.TIMESTAMP(timezone=True)


def _project() -> sa.Column[str]:
    return sa.Column("project_id", sa.Text, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False)


def upgrade() -> None:
    op.create_table(
        "searches",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("base_model", sa.Text, nullable=False),
        sa.Column("init_adapter_id", sa.Text),
        sa.Column("dataset_id", sa.Text),
        sa.Column("training_file", sa.Text),
        sa.Column("validation_file", sa.Text),
        sa.Column("prompt", JSONB, nullable=False),
        sa.Column("max_passage_tokens", sa.Integer),
        sa.Column("recipe", JSONB, nullable=False),
        sa.Column("space", JSONB, nullable=False),
        sa.Column("trials", sa.Integer, nullable=False),
        sa.Column("minutes", sa.Double),
        sa.Column("parallel", sa.Integer, nullable=False),
        sa.Column("pruning", sa.Boolean, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("suffix", sa.Text),
        sa.Column("metadata", JSONB, nullable=False),
        sa.Column("used_seconds", sa.Double, nullable=False),
        sa.Column("running_since", _MOMENT),
        sa.Column("alarm_id", sa.Text),
        sa.Column("importance", JSONB),
        sa.Column("error", JSONB),
        sa.Column("created_at", _MOMENT, nullable=False, server_default=sa.func.now()),
        sa.Column("finished_at", _MOMENT),
        sa.CheckConstraint(
            "status IN ('running', 'paused', 'succeeded', 'failed', 'cancelled')", name="searches_status"
        ),
    )
    op.create_index("searches_by_project", "searches", ["project_id", "created_at", "id"])
    op.create_table(
        "search_trials",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("search_id", sa.Text, sa.ForeignKey("searches.id", ondelete="CASCADE"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, unique=True),
        sa.Column("params", JSONB, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("value", sa.Double),
        sa.Column("curve", JSONB, nullable=False),
        sa.Column("reason", JSONB),
        sa.Column("model_id", sa.Text),
        sa.Column("created_at", _MOMENT, nullable=False, server_default=sa.func.now()),
        sa.Column("finished_at", _MOMENT),
        sa.UniqueConstraint("search_id", "number"),
        sa.CheckConstraint(
            "status IN ('running', 'complete', 'pruned', 'stopped', 'failed')", name="search_trials_status"
        ),
    )
    protect(op, "searches")
    protect(op, "search_trials")
    op.execute("CREATE SCHEMA optuna")
    op.execute("GRANT USAGE, CREATE ON SCHEMA optuna TO uplift_app")


def downgrade() -> None:
    op.execute("DROP SCHEMA optuna CASCADE")
    op.drop_table("search_trials")
    op.drop_table("searches")
