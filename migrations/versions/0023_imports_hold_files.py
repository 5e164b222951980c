"""Imports of adapters hold their two files too, and let go of them however they end."""

from alembic import op

revision = "0023"
down_revision = "0022"

KINDS = ("training.train_adapter", "training.order_adapter")
IMPORT = "training.import_adapter"
HOLD = f"""
INSERT INTO held_files (owner_id, project_id, param, position, filename, blob_key)
SELECT j.id, j.project_id, named.param, 0, f.filename, f.blob_key
FROM adapter_imports i
JOIN jobs j ON j.id = i.job_id AND j.kind = '{IMPORT}' AND j.status NOT IN ('succeeded', 'failed', 'cancelled')
CROSS JOIN LATERAL (VALUES ('weights_file', i.weights_file), ('config_file', i.config_file)) named(param, file_id)
JOIN files f ON f.id = named.file_id AND f.project_id = i.project_id
ON CONFLICT DO NOTHING
"""
# nobody would let go of them any more
LET_GO = f"DELETE FROM held_files h USING jobs j WHERE j.id = h.owner_id AND j.kind = '{IMPORT}'"
TOUCHED = ("adapter_imports", "files", "jobs", "held_files")


def upgrade() -> None:
    _across_projects(HOLD)
    _release_after(*KINDS, IMPORT)


def downgrade() -> None:
    _across_projects(LET_GO)
    _release_after(*KINDS)


def _across_projects(statement: str) -> None:
    # the tables are under forced row-level security, which hides every row from its owner too
    for table in TOUCHED:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute(statement)
    for table in TOUCHED:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def _release_after(*kinds: str) -> None:
    """Have an ended job of these kinds let go of what it holds."""
    named = ", ".join(f"'{kind}'" for kind in kinds)
    op.execute("DROP TRIGGER training_release ON jobs")
    op.execute(f"""
        CREATE TRIGGER training_release AFTER UPDATE OF status ON jobs FOR EACH ROW
        WHEN (OLD.status IS DISTINCT FROM NEW.status AND NEW.status IN ('succeeded', 'failed', 'cancelled')
          AND NEW.kind IN ({named}))
        EXECUTE FUNCTION order_training_release()
        """)
