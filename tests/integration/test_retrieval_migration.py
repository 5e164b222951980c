"""The step of the schema to stores that expire: nothing that waited is forgotten, every tenancy check is rewritten."""

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module

import pytest
import sqlalchemy as sa

from deploy.local.engines import EmbeddedEngines
from services.gateway.bootstrap import found_project
from shared.database import Database
from shared.messages import IndexVectorStore
from tests.conftest import ROOT

pytestmark = pytest.mark.stack
NAME = "uplift_stores_migrated"
BEFORE = str(import_module("migrations.versions.0012_stores").down_revision)

STORE = """
INSERT INTO vector_stores (id, project_id, name, embedder, chunking, metadata)
VALUES ('vs', :project, '', 'e', '{}', '{}')
"""
FILES = """
INSERT INTO vector_store_files (vector_store_id, file_id, project_id, filename, status, attributes)
SELECT 'vs', name, :project, name, status, '{}' FROM unnest(ARRAY['done', 'waits', 'twice', 'lost'],
  ARRAY['completed', 'in_progress', 'in_progress', 'in_progress']) AS f(name, status)
"""
JOBS = """
INSERT INTO jobs (id, project_id, kind, queue, subject_id, payload, created_at)
SELECT id, :project, 'retrieval.index_vector_store', 'retrieval.batch', 'vs',
  jsonb_build_object('vector_store_id', 'vs', 'file_ids', to_jsonb(string_to_array(files, ','))), now() + id::interval
FROM (VALUES ('1 s', 'waits,twice'), ('2 s', 'twice')) AS j(id, files)
"""


@pytest.fixture
def scratch(engines: EmbeddedEngines, stack_environment: dict[str, str]) -> Iterator["Scratch"]:
    engines.create_database(NAME)
    made = Scratch(engines, stack_environment, NAME)
    yield made
    made.database.close()
    made.owner.close()


class Scratch:
    """A database of its own, migrated to and fro."""

    def __init__(self, engines: EmbeddedEngines, environment: dict[str, str], name: str) -> None:
        self.owner, self.database = (
            Database(sa.make_url(url).set(database=name).render_as_string(hide_password=False), pool_size=1)
            for url in (engines.admin_url, engines.database_url)
        )
        self._environment = environment | {"DATABASE_ADMIN_URL": self.owner.url}

    def migrate(self, *words: str) -> None:
        command = [sys.executable, "-m", "alembic", "-c", "migrations/alembic.ini", *words]
        subprocess.run(command, cwd=ROOT, env=self._environment, check=True, capture_output=True)

    def policies(self) -> dict[str, str]:
        with self.owner.system_transaction() as session:
            rows = session.execute(
                sa.text("SELECT tablename, qual || with_check FROM pg_policies WHERE policyname = 'tenant'")
            )
            return {table: terms for table, terms in rows if terms is not None}


def test_keeps_what_waits_to_be_indexed_and_reads_the_tenant_once_a_query(scratch: Scratch) -> None:
    scratch.migrate("upgrade", "head")
    scratch.migrate("downgrade", BEFORE)
    assert not any("SELECT" in terms for terms in scratch.policies().values())
    with scratch.owner.system_transaction() as session:
        project = found_project(session, organisation="migrated", project="p")
    with scratch.database.transaction(project) as session:
        for statement in (STORE, FILES, JOBS):
            session.execute(sa.text(statement), {"project": project})
    scratch.migrate("upgrade", "head")
    with scratch.database.transaction(project) as session:
        files = session.execute(sa.text("SELECT file_id, job_id FROM vector_store_files"))
        adopted = {row.file_id: row.job_id for row in files}
        payloads = session.scalars(sa.text("SELECT payload FROM jobs")).all()
    assert adopted == {"done": None, "waits": "1 s", "twice": "2 s", "lost": None}
    assert {IndexVectorStore.model_validate(payload).vector_store_id for payload in payloads} == {"vs"}
    policies = scratch.policies()
    assert {"projects", "jobs", "passages", "vector_store_batches"} <= set(policies)
    assert all(terms.count("( SELECT NULLIF") == 2 for terms in policies.values())
    with scratch.database.system_transaction() as session:
        assert session.scalar(sa.text("SELECT count(*) FROM vector_store_files")) == 0
