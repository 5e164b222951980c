"""The job object says what is known and nothing else."""

from typing import Any

import pytest

from services.training.objects import job_object
from services.training.recipe import Recipe
from services.training.tables import TrainingJob
from shared.clock import now
from shared.jobs.tables import Job
from shared.web import Caller

WHO = Caller("p", "p", "org", "key", (), "req")


def shown(status: str, progress: dict[str, Any] | None) -> dict[str, Any]:
    row = TrainingJob(id="ftjob-1", base_model="tiny", recipe=Recipe().model_dump(mode="json"), auto=[], seed=0)
    row.created_at = row.validated_at = now()
    return job_object(row, Job(id="ftjob-1", status=status, progress=progress), WHO)


def test_the_estimated_finish_is_the_moment_that_was_estimated_whenever_it_is_read() -> None:
    assert shown("running", {"seconds_left": 30.4, "at": 1000.0})["estimated_finish"] == 1030


@pytest.mark.parametrize(
    ("status", "progress"),
    [
        ("running", None),
        ("running", {"seconds_left": None, "at": 1000.0}),
        ("paused", {"seconds_left": 30.0, "at": 1000.0}),
        ("queued", {"seconds_left": 30.0, "at": 1000.0}),
        ("succeeded", {"seconds_left": 0.0, "at": 1000.0}),
    ],
)
def test_there_is_no_estimate_before_one_is_measured_or_when_nothing_runs(status: str, progress: Any) -> None:
    assert shown(status, progress)["estimated_finish"] is None


def test_every_field_of_openais_job_is_there() -> None:
    from openai.types.fine_tuning import FineTuningJob

    assert FineTuningJob.model_fields.keys() <= shown("running", None).keys()
