"""Evals, their runs, the runs' output items, and every grade."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rls import protect

revision = "0013"
down_revision = "0015"

_MOMENT = sa.TIMESTAMP(timezone=True)
_TABLES = ("evals", "eval_runs", "eval_output_items", "eval_grades")


def upgrade() -> None:
    _evals()
    _items()
    for table in _TABLES:
        protect(op, table)


def downgrade() -> None:
    for table in reversed(_TABLES):
        op.drop_table(table)


def _project() -> sa.Column[str]:
    return sa.Column("project_id", sa.Text, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False)


def _moment(name: str) -> sa.Column[object]:
    return sa.Column(name, _MOMENT, nullable=False, server_default=sa.func.now())


def _tokens() -> list[sa.Column[int]]:
    return [
        sa.Column(name, sa.Integer, nullable=False, server_default="0")
        for name in ("prompt_tokens", "completion_tokens")
    ]


def _evals() -> None:
    op.create_table(
        "evals",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("item_schema", JSONB, nullable=False),
        sa.Column("include_sample_schema", sa.Boolean, nullable=False),
        sa.Column("testing_criteria", JSONB, nullable=False),
        sa.Column("metadata", JSONB),
        _moment("created_at"),
        _moment("updated_at"),
    )
    op.create_index("evals_by_project", "evals", ["project_id", "created_at", "id"])
    op.create_index("evals_by_update", "evals", ["project_id", "updated_at", "id"])
    op.create_table(
        "eval_runs",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("eval_id", sa.Text, sa.ForeignKey("evals.id", ondelete="CASCADE"), nullable=False),
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("model", sa.Text),
        sa.Column("data_source", JSONB, nullable=False),
        sa.Column("metadata", JSONB),
        _moment("created_at"),
    )
    op.create_index("eval_runs_by_eval", "eval_runs", ["eval_id", "created_at", "id"])


def _items() -> None:
    op.create_table(
        "eval_output_items",
        sa.Column("run_id", sa.Text, sa.ForeignKey("eval_runs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        _project(),
        sa.Column("status", sa.Text),
        sa.Column("item", JSONB, nullable=False),
        sa.Column("sample", JSONB, nullable=False),
        sa.Column("model", sa.Text),
        *_tokens(),
        _moment("created_at"),
        sa.CheckConstraint("status IN ('pass', 'fail', 'error')", name="eval_output_items_status"),
    )
    op.create_table(
        "eval_grades",
        sa.Column("run_id", sa.Text, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("criterion", sa.Integer, primary_key=True),
        _project(),
        sa.Column("passed", sa.Boolean),
        sa.Column("score", sa.Float),
        sa.Column("error", JSONB),
        sa.Column("sample", JSONB),
        sa.Column("model", sa.Text),
        *_tokens(),
        sa.ForeignKeyConstraint(
            ["run_id", "position"], ["eval_output_items.run_id", "eval_output_items.position"], ondelete="CASCADE"
        ),
        # a grade is a verdict with its score, or an error
        sa.CheckConstraint("(error IS NULL) = (passed IS NOT NULL AND score IS NOT NULL)", name="eval_grades_verdict"),
    )
