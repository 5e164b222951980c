"""The minutes that a training job may take at most."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.add_column("training_jobs", sa.Column("max_minutes", sa.Double))


def downgrade() -> None:
    op.drop_column("training_jobs", "max_minutes")
