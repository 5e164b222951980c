"""What a lack of memory made of a training job's micro-batch."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.add_column("training_jobs", sa.Column("micro_batch_tokens", sa.Integer))


def downgrade() -> None:
    op.drop_column("training_jobs", "micro_batch_tokens")
