"""The step of the schema to jobs that hold their files: those under way hold theirs too."""

from collections.abc import Iterator
from importlib import import_module

import pytest
import sqlalchemy as sa

from deploy.local.engines import EmbeddedEngines
from services.gateway.bootstrap import found_project
from tests.integration.test_retrieval_migration import Scratch

pytestmark = pytest.mark.stack
NAME = "uplift_held_files_migrated"
BEFORE = str(import_module("migrations.versions.0022_held_files").down_revision)

FILES = """
INSERT INTO files (id, project_id, filename, purpose, bytes, sha256, blob_key)
SELECT 'file-' || name, :project, name, 'fine-tune', 1, name, 'key-' || name FROM unnest(ARRAY['train', 'valid']) name
"""
JOBS = """
INSERT INTO jobs (id, project_id, kind, queue, payload, status)
SELECT id, :project, 'training.train_adapter', 'training', '{}', status
FROM (VALUES ('waits', 'queued'), ('reads', 'paused'), ('over', 'succeeded')) AS j(id, status)
"""
TRAINING = """
INSERT INTO training_jobs (id, project_id, base_model, training_file, validation_file, recipe, seed, prompt, metadata,
  resume_blob_key, store_files)
SELECT id, :project, 'tiny', training, 'file-valid', '{}', 0, '{}', '{}', 'key-state', stores::jsonb
FROM (VALUES ('waits', 'file-train', NULL), ('over', 'file-train', NULL),
  ('reads', 'vs_1', '{"training_file": [["a.md", "key-a"], ["b.md", "key-b"]]}')) AS t(id, training, stores)
"""


@pytest.fixture
def scratch(engines: EmbeddedEngines, stack_environment: dict[str, str]) -> Iterator[Scratch]:
    engines.create_database(NAME)
    made = Scratch(engines, stack_environment, NAME)
    yield made
    made.database.close()
    made.owner.close()


def test_unfinished_jobs_hold_the_files_that_they_named_and_ended_ones_let_their_state_go(scratch: Scratch) -> None:
    scratch.migrate("upgrade", "head")
    scratch.migrate("downgrade", BEFORE)
    with scratch.owner.system_transaction() as session:
        project = found_project(session, organisation="migrated", project="p")
    with scratch.database.transaction(project) as session:
        for statement in (FILES, JOBS, TRAINING):
            session.execute(sa.text(statement), {"project": project})
    scratch.migrate("upgrade", "head")
    held = "SELECT owner_id, param, filename, blob_key FROM held_files ORDER BY owner_id, param, position"
    with scratch.database.transaction(project) as session:
        assert [tuple(row) for row in session.execute(sa.text(held))] == [
            ("reads", "training_file", "a.md", "key-a"),
            ("reads", "training_file", "b.md", "key-b"),
            ("reads", "validation_file", "valid", "key-valid"),
            ("waits", "training_file", "train", "key-train"),
            ("waits", "validation_file", "valid", "key-valid"),
        ]
        orders = "SELECT j.subject_id FROM jobs j JOIN outbox o ON o.job_id = j.id WHERE j.kind = 'training.release'"
        assert list(session.scalars(sa.text(orders))) == ["over"]
