"""The steps of the schema to jobs that hold their files: those under way hold theirs too, there and back again."""

from collections.abc import Iterator
from importlib import import_module

import pytest
import sqlalchemy as sa

from deploy.local.engines import EmbeddedEngines
from services.gateway.bootstrap import found_project
from shared.ids import new_id
from tests.integration.test_retrieval_migration import Scratch

pytestmark = pytest.mark.stack
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

IMPORTS = (
    """
    INSERT INTO jobs (id, project_id, kind, queue, payload, status)
    VALUES ('brings', :project, 'training.import_adapter', 'training', '{}', 'queued')
    """,
    """
    INSERT INTO adapter_imports (id, project_id, job_id, base_model, weights_file, config_file, metadata)
    VALUES ('ad', :project, 'brings', 'tiny', 'file-train', 'file-valid', '{}')
    """,
)
TRAINS = """
INSERT INTO held_files (owner_id, project_id, param, position, filename, blob_key)
VALUES ('trains', :project, 'training_file', 0, 'train', 'key-train')
"""
LOST = """
INSERT INTO held_files (owner_id, project_id, param, position, filename, blob_key)
VALUES ('lost', :project, 'training_file', 0, 'gone', 'key-gone')
"""
HELD = "SELECT owner_id, param FROM held_files ORDER BY owner_id, param"


@pytest.fixture
def scratch(engines: EmbeddedEngines, stack_environment: dict[str, str]) -> Iterator[Scratch]:
    name = new_id("uplift_migrated_")
    engines.create_database(name)
    made = Scratch(engines, stack_environment, name)
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


def test_an_import_under_way_holds_its_files_however_often_the_step_is_taken(scratch: Scratch) -> None:
    scratch.migrate("upgrade", "0022")
    with scratch.owner.system_transaction() as session:
        project = found_project(session, organisation="migrated", project="p")

    def held() -> list[tuple[str, str]]:
        with scratch.database.transaction(project) as session:
            return [tuple(row) for row in session.execute(sa.text(HELD))]

    with scratch.database.transaction(project) as session:
        for statement in (FILES, *IMPORTS):
            session.execute(sa.text(statement), {"project": project})
        session.execute(sa.text(TRAINS), {"project": project})
    both = [("brings", "config_file"), ("brings", "weights_file"), ("trains", "training_file")]
    scratch.migrate("upgrade", "0023")
    assert held() == both
    scratch.migrate("downgrade", "0022")
    assert held() == both[2:], "what nobody of that version would let go of"
    scratch.migrate("upgrade", "0023")
    assert held() == both


def test_files_that_are_held_know_their_size_from_the_files_that_are_there(scratch: Scratch) -> None:
    scratch.migrate("upgrade", "0023")
    with scratch.owner.system_transaction() as session:
        project = found_project(session, organisation="migrated", project="p")
    with scratch.database.transaction(project) as session:
        for statement in (FILES, TRAINS, "UPDATE files SET bytes = 7", LOST):
            session.execute(sa.text(statement), {"project": project})
    scratch.migrate("upgrade", "0024")
    with scratch.database.transaction(project) as session:
        found = session.execute(sa.text("SELECT owner_id, bytes FROM held_files ORDER BY owner_id"))
        assert [tuple(row) for row in found] == [("lost", 0), ("trains", 7)]
    scratch.migrate("downgrade", "0023")
    scratch.migrate("upgrade", "0024")
