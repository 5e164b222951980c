"""Deleting a fine-tuned model: its row goes, and its bytes once nothing else has the same."""

from pathlib import Path

import pytest

from services.training.handlers import JOB_HANDLERS
from services.training.tables import AdapterRow
from shared import jobs
from shared.database import Database
from shared.ids import new_id
from shared.jobs.runner import JobRunner
from shared.messages import DeleteWeights
from shared.storage import BlobMissing
from shared.wiring import Wiring
from tests.conftest import make_project

pytestmark = pytest.mark.stack


@pytest.fixture
def blob_key(wiring: Wiring, project_id: str, tmp_path: Path) -> str:
    (tmp_path / "adapter_config.json").write_text("{}")
    return wiring.storage.put_folder(project_id, tmp_path).key


def add_adapter(database: Database, project_id: str, blob_key: str) -> str:
    row = AdapterRow(id=new_id("ad_"), project_id=project_id, model_id=new_id("ft:"), base_model="small")
    row.blob_key, row.job_id, row.recipe, row.metrics = blob_key, new_id("ftjob-"), {}, {}
    row.train_seconds, row.trained_tokens = 1.0, 1
    with database.transaction(project_id) as session:
        session.add(row)
        return row.id


def delete(wiring: Wiring, project_id: str, weights_id: str) -> str:
    with wiring.database.transaction(project_id) as session:
        ordered = jobs.send(session, project_id, DeleteWeights(weights_id=weights_id), subject_id=weights_id).id
    return JobRunner(wiring, JOB_HANDLERS, worker="test").run(project_id, ordered)


def test_deletes_the_bytes_with_the_last_adapter_that_has_them(wiring: Wiring, project_id: str, blob_key: str) -> None:
    one, other = (add_adapter(wiring.database, project_id, blob_key) for _ in range(2))
    assert delete(wiring, project_id, one) == "succeeded"
    assert wiring.storage.local_folder(project_id, blob_key).is_dir()
    assert delete(wiring, project_id, other) == "succeeded"
    with pytest.raises(BlobMissing):
        wiring.storage.local_folder(project_id, blob_key)
    with wiring.database.transaction(project_id) as session:
        assert session.get(AdapterRow, one) is None
        assert session.get(AdapterRow, other) is None


def test_deletes_twice_without_harm(wiring: Wiring, project_id: str, blob_key: str) -> None:
    adapter = add_adapter(wiring.database, project_id, blob_key)
    assert [delete(wiring, project_id, adapter) for _ in range(2)] == ["succeeded"] * 2


def test_deletes_nothing_of_another_project(
    wiring: Wiring, project_id: str, blob_key: str, admin_database: Database
) -> None:
    adapter = add_adapter(wiring.database, project_id, blob_key)
    assert delete(wiring, make_project(admin_database), adapter) == "succeeded"
    with wiring.database.transaction(project_id) as session:
        assert session.get(AdapterRow, adapter) is not None
