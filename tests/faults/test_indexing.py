"""A process that is killed while it indexes: another goes on, and nothing is there twice."""

import signal
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from services.retrieval.tables import Document, PassageRow
from shared.database import Database
from shared.jobs import Job
from shared.settings import Settings
from shared.storage import Storage
from tests.fakes.processes import Process, killed_at_the_end, wait_until
from tests.fakes.retrieval_parts import Parts

pytestmark = pytest.mark.stack
FILES = 6


def test_goes_on_after_kill_9_in_the_middle_and_leaves_nothing_twice(
    database: Database, settings: Settings, project_id: str, stack_environment: dict[str, str], tmp_path: Path
) -> None:
    parts = Parts(settings, database, Storage(settings.blob_url, cache=tmp_path / "cache"), project_id)
    store = parts.client.vector_stores.create().id
    files = parts.upload(**{f"d{n}_md": f"# item_{n}\n\nThing number {n}." for n in range(FILES)})
    batch = parts.client.vector_stores.file_batches.create(store, file_ids=files)
    [job_id] = parts.queued(store)
    argv = [sys.executable, "-m", "tests.fakes.stuck_indexer", project_id, job_id]
    indexer = Process(argv, stack_environment | {"UPLIFT_FILES_PER_TRANSACTION": "1"}, tmp_path, "indexer")
    indexer.start()
    with killed_at_the_end(indexer):
        assert (parts.count(Document, store), parts.count(PassageRow, store)) == (2, 2)
        indexer.signal(signal.SIGKILL)
        wait_until(indexer.is_dead, seconds=10)
    wait_until(lambda: _is_queued_again(database, project_id, job_id), seconds=12)
    during = parts.client.vector_stores.file_batches.retrieve(batch.id, vector_store_id=store)
    assert (during.status, during.file_counts.completed, during.file_counts.in_progress) == ("in_progress", 2, 4)
    assert parts.work(store) == ["succeeded"]
    assert parts.embedder.embedded == FILES - 2
    assert (parts.count(Document, store), parts.count(PassageRow, store)) == (FILES, FILES)
    assert parts.client.vector_stores.file_batches.retrieve(batch.id, vector_store_id=store).status == "completed"
    assert sorted(parts.ask(store, "Thing number", max_num_results=50)) == [f"d{n}.md" for n in range(FILES)]
    parts.http.close()


def _is_queued_again(database: Database, project_id: str, job_id: str) -> bool:
    """What the dispatcher's leader does every few seconds, and what became of the job."""
    with database.system_transaction() as session:
        session.execute(sa.text("SELECT * FROM requeue_expired_jobs()"))
    with database.transaction(project_id) as session:
        return session.get_one(Job, job_id).status == "queued"
