"""The files of the vector stores that a training job learns from, as they were at its first attempt."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.add_column("training_jobs", sa.Column("store_files", JSONB))


def downgrade() -> None:
    op.drop_column("training_jobs", "store_files")
