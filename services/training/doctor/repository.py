"""What the doctor reads of a job and of the remedies that were started for it."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.training import repository
from services.training.doctor.facts import Facts
from services.training.doctor.forecast import Point
from services.training.errors import NonFiniteLoss
from services.training.recipe import Recipe
from services.training.tables import AdapterRow, CheckpointRow, TrainingJob
from shared.jobs.tables import TERMINAL, Job, JobEvent


def facts(session: Session, row: TrainingJob, job: Job) -> Facts:
    """What the run recorded until now."""
    started = _told(session, row.id, "total_steps")
    probed = _told(session, row.id, "general_ability")
    return Facts.of(
        Recipe.model_validate(row.recipe),
        started[0] if started else {},
        repository.metrics(session, row.id),
        smaller=_smaller(session, row.id),
        probed=probed[-1]["general_ability"] if probed else None,
        # a run that was cancelled or broke off did not end, except where its own steps ended it
        ended=job.status == "succeeded" or (job.error or {}).get("code") == NonFiniteLoss.code,
        over=job.status in TERMINAL,
        error_code=(job.error or {}).get("code"),
    )


def _smaller(session: Session, job_id: str) -> list[Point]:
    """The job's runs on smaller shares of its examples that are done."""
    found = [repository.get_job(session, note["learning_curve"]) for note in _told(session, job_id, "learning_curve")]
    points = [facts(session, row, job).point for row, job in found if job.status == "succeeded"]
    return [point for point in points if point is not None]


def remedies(session: Session, job_id: str) -> list[tuple[Mapping[str, Any], TrainingJob, Job]]:
    """What was noted when each remedy was started, oldest first, with its job."""
    return [(note, *repository.get_job(session, note["remedy"])) for note in _told(session, job_id, "remedy")]


def validation_examples(session: Session, job_id: str) -> int | None:
    """How many the run validates with; None before it has begun. Losses on other examples do not compare."""
    started = _told(session, job_id, "total_steps")
    return int(started[0]["validation_examples"]) if started else None


def start_model(session: Session, row: TrainingJob) -> str:
    """The model id that the job began from: its base model, or the adapter or checkpoint it continued."""
    if row.init_adapter_id is None:
        return row.base_model
    found: AdapterRow | CheckpointRow | None = session.get(CheckpointRow, row.init_adapter_id)
    return (found or repository.adapter(session, row.init_adapter_id)).model_id


def _told(session: Session, job_id: str, key: str) -> list[dict[str, Any]]:
    """The data of the job's messages that hold this key, oldest first."""
    query = sa.select(JobEvent.data).where(JobEvent.job_id == job_id, JobEvent.type == "message")
    query = query.where(JobEvent.data.has_key(key)).order_by(JobEvent.id)
    return [data for data in session.scalars(query) if data is not None]
