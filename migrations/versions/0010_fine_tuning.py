"""Fine-tuning as OpenAI's clients know it: hyperparameters that wait for the data, result files, checkpoints as models.

A checkpoint becomes a model: its blob is an adapter that peft loads. What an interrupted run goes on from is private to
the job and moves to the job's own row.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("training_jobs", sa.Column("auto", JSONB, nullable=False, server_default="[]"))
    op.add_column("training_jobs", sa.Column("validated_at", sa.TIMESTAMP(timezone=True)))
    op.add_column("training_jobs", sa.Column("result_files", JSONB, nullable=False, server_default="[]"))
    op.add_column("training_jobs", sa.Column("resume_step", sa.Integer))
    op.add_column("training_jobs", sa.Column("resume_blob_key", sa.Text))
    op.add_column("checkpoints", sa.Column("model_id", sa.Text))
    op.add_column("checkpoints", sa.Column("base_model", sa.Text))
    # the tables are under forced row-level security, which hides every row from its owner too
    for table in ("training_jobs", "checkpoints"):
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute(
        "UPDATE training_jobs SET resume_step = newest.step, resume_blob_key = newest.blob_key FROM ("
        "  SELECT DISTINCT ON (job_id) job_id, step, blob_key FROM checkpoints WHERE blob_key IS NOT NULL"
        "  ORDER BY job_id, step DESC) newest WHERE newest.job_id = training_jobs.id"
    )
    op.execute("DELETE FROM checkpoints")
    for table in ("training_jobs", "checkpoints"):
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    for column in ("model_id", "base_model", "blob_key"):
        op.alter_column("checkpoints", column, nullable=False)
    op.create_unique_constraint("checkpoints_model", "checkpoints", ["project_id", "model_id"])


def downgrade() -> None:
    op.drop_constraint("checkpoints_model", "checkpoints")
    op.alter_column("checkpoints", "blob_key", nullable=True)
    for column in ("base_model", "model_id"):
        op.drop_column("checkpoints", column)
    for column in ("resume_blob_key", "resume_step", "result_files", "validated_at", "auto"):
        op.drop_column("training_jobs", column)
