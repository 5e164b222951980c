"""What a project may have: checked in the transaction that would exceed it, under a lock, so that no two slip through.

A project's row in `project_quotas` replaces the settings' defaults; 0 is no limit.
Tokens are counted by whoever has answers made: the gateway, and evaluation for its jobs and batches.
"""

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared import read_models
from shared.clock import now
from shared.errors import QuotaExceeded
from shared.jobs.tables import TERMINAL, Job
from shared.messages import OrderTraining, TrainAdapter
from shared.settings import Settings
from shared.stored_bytes import stored_bytes

_THIS_MONTH = sa.cast(sa.func.date_trunc("month", sa.func.timezone("UTC", sa.func.now())), sa.Date)
_TRAINING = (TrainAdapter.kind, OrderTraining.kind)
"""The kinds of jobs that train, whoever ordered them."""


def claim_training(
    session: Session, project_id: str, settings: Settings, *, jobs: int = 1, together: int | None = None
) -> None:
    """Raise QuotaExceeded unless the project may start `jobs` more trainings; call it where they are ordered.

    At most `together` of them wait or run at a time (all of them where it is None).
    """
    if not jobs:
        return
    more = jobs if together is None else min(jobs, together)
    at_once = _quota(session, "training_jobs_at_once", settings.quota_training_jobs_at_once)
    per_day = _quota(session, "training_jobs_per_day", settings.quota_training_jobs_per_day)
    _lock(session, project_id)
    training = sa.select(sa.func.count()).where(Job.project_id == project_id, Job.kind.in_(_TRAINING))
    alive = session.scalar(training.where(Job.status.not_in(TERMINAL))) if at_once else 0
    if at_once and (alive or 0) + more > at_once:
        raise QuotaExceeded(
            f"This project may have {at_once} training jobs queued, running or paused at once, and has {alive}. "
            "Wait for one to end, or cancel one."
        )
    today = session.scalar(training.where(Job.created_at > now() - timedelta(days=1))) if per_day else 0
    if per_day and (today or 0) + jobs > per_day:
        raise QuotaExceeded(
            f"This project may start {per_day} training jobs in 24 hours, and has started {today}. "
            "An operator can raise training_jobs_per_day."
        )


def claim_storage(
    session: Session, project_id: str, more_bytes: int, settings: Settings, *, param: str = "file"
) -> None:
    """Raise QuotaExceeded unless what is stored may grow by `more_bytes`; call it where a row is written.

    `param` is the field that asks for the bytes.
    """
    most = _quota(session, "stored_bytes", settings.quota_stored_bytes)
    if not most:
        return
    _lock(session, project_id)
    kinds = stored_bytes(session, project_id)
    stored = sum(kinds.values())
    if stored + more_bytes > most:
        raise QuotaExceeded(
            f"This project may store {most} bytes; it stores {stored}, and this would add {more_bytes}. {_told(kinds)}",
            param=param,
        )


def check_storage(session: Session, project_id: str, settings: Settings) -> None:
    """Raise QuotaExceeded where the project stores all that it may: for orders of what nobody knows the size of yet.

    What they make is kept however much it is, for hours of work must not be lost to a quota.
    """
    most = _quota(session, "stored_bytes", settings.quota_stored_bytes)
    kinds = stored_bytes(session, project_id) if most else {}
    if 0 < most <= sum(kinds.values()):
        raise QuotaExceeded(
            f"This project may store {most} bytes and stores {sum(kinds.values())}, so nothing is begun that would "
            f"store more. {_told(kinds)}"
        )


def add_tokens(session: Session, project_id: str, tokens: int) -> None:
    """Add to the project's tokens of this month."""
    if not tokens:
        return
    usage = read_models.project_usage
    added = insert(usage).values(project_id=project_id, month=_THIS_MONTH, tokens=tokens)
    total = usage.c.tokens + added.excluded.tokens
    session.execute(added.on_conflict_do_update(index_elements=["project_id", "month"], set_={"tokens": total}))


def check_tokens(session: Session, settings: Settings) -> None:
    """Raise QuotaExceeded once the project's tokens of this month are used: for work that the gateway does not see."""
    most = _quota(session, "tokens_per_month", settings.quota_tokens_per_month)
    usage = read_models.project_usage
    used = session.scalar(sa.select(usage.c.tokens).where(usage.c.month == _THIS_MONTH)) if most else 0
    if 0 < most <= (used or 0):
        raise month_is_used(used or 0, most)


def month_is_used(used: int, most: int) -> QuotaExceeded:
    """The refusal of whoever counts."""
    return QuotaExceeded(
        f"This project has used {used} of its {most} tokens of this month (by UTC). An operator can raise "
        "tokens_per_month."
    )


def _quota(session: Session, name: str, default: int) -> int:
    own: int | None = session.scalar(sa.select(read_models.project_quotas.c[name]))
    return default if own is None else own


def _told(kinds: dict[str, int]) -> str:
    """What is stored, and what to do about it."""
    named = ", ".join(f"{kind}: {size}" for kind, size in kinds.items() if size) or "nothing"
    return f"What is stored: {named}. Delete what is no longer needed."


def _lock(session: Session, project_id: str) -> None:
    """Hold off other claims of the project until the transaction ends."""
    session.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(f"quota:{project_id}", 0))))
