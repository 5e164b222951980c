"""Tables of the generation service."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from migrations.rls import protect

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "prompts",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("spec", JSONB, nullable=False),
        _moment("created_at"),
        sa.UniqueConstraint("project_id", "name", "version"),
        sa.UniqueConstraint("project_id", "name", "digest"),
    )
    op.create_table(
        "variants",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("model_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("base_model", sa.Text, nullable=False),
        sa.Column("adapter_id", sa.Text),
        sa.Column("prompt_id", sa.Text, sa.ForeignKey("prompts.id")),
        sa.Column("retrieval", JSONB),
        sa.Column("sampling", JSONB, nullable=False),
        _moment("created_at"),
        sa.UniqueConstraint("project_id", "model_id"),
        sa.UniqueConstraint("project_id", "digest"),
    )
    op.create_table(
        "releases",
        sa.Column("id", sa.Text, primary_key=True),
        _project(),
        sa.Column("model_id", sa.Text, nullable=False),
        sa.Column("variant_id", sa.Text, sa.ForeignKey("variants.id"), nullable=False),
        sa.Column("history", JSONB, nullable=False),
        _moment("created_at"),
        _moment("updated_at"),
        sa.UniqueConstraint("project_id", "model_id"),
    )
    for table in ("prompts", "variants", "releases"):
        protect(op, table)


def downgrade() -> None:
    for table in ("releases", "variants", "prompts"):
        op.drop_table(table)


def _project() -> sa.Column[str]:
    return sa.Column("project_id", sa.Text, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False)


def _moment(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now())
