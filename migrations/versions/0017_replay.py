"""The file whose examples a training job replays beside its own."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("training_jobs", sa.Column("replay_file", sa.Text))


def downgrade() -> None:
    op.drop_column("training_jobs", "replay_file")
