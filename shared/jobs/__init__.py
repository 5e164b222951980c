"""Durable jobs: the row is the truth, a Celery message is a disposable wake-up, a fence guards every later write."""

from shared.jobs.context import (
    HandOver,
    JobCancelled,
    JobContext,
    JobHandler,
    LeaseLost,
)
from shared.jobs.control import cancel, get, listing, pause, resume
from shared.jobs.queue import send
from shared.jobs.tables import TERMINAL, Job, JobEvent

__all__ = [
    "TERMINAL",
    "HandOver",
    "Job",
    "JobCancelled",
    "JobContext",
    "JobEvent",
    "JobHandler",
    "LeaseLost",
    "cancel",
    "get",
    "listing",
    "pause",
    "resume",
    "send",
]
