"""What the jobs door answers, for the API's description."""

from typing import Any, Literal

from pydantic import ConfigDict

from shared.answers import Answer

_JOB_ID = "job_abc"


class Progress(Answer):
    """How far the work is."""

    done: float
    total: float
    """0 while it is not known yet."""
    unit: str
    """What is counted, such as steps."""
    message: str
    seconds_left: float | None
    """An estimate; null while there is none."""
    at: float
    """When this was said, in unix seconds."""


class Failure(Answer):
    """Why the work failed."""

    code: str
    """A word for programs."""
    message: str
    param: str | None
    """The field of the order that is at fault."""


class JobObject(Answer):
    """A durable unit of work."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": _JOB_ID,
                    "object": "job",
                    "kind": "training.train_adapter",
                    "queue": "training",
                    "status": "running",
                    "subject_id": "ftjob-abc",
                    "parent_id": None,
                    "attempt": 1,
                    "max_attempts": 3,
                    "cancel_requested": False,
                    "progress": {
                        "done": 40,
                        "total": 120,
                        "unit": "steps",
                        "message": "training",
                        "seconds_left": 96.5,
                        "at": 1767225660.2,
                    },
                    "result": None,
                    "error": None,
                    "request_id": "req_abc",
                    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
                    "created_at": 1767225600,
                    "started_at": 1767225602,
                    "finished_at": None,
                }
            ]
        }
    )

    id: str
    object: Literal["job"]
    kind: str
    """What the job does, such as training.train_adapter."""
    queue: str
    """Which workers take it."""
    status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
    subject_id: str | None
    """What the job is about: a dataset, a fine-tuning job, ..."""
    parent_id: str | None
    """What it is a part of."""
    attempt: int
    """How many times it was begun; a pause does not count."""
    max_attempts: int
    cancel_requested: bool
    """It was told to stop and will at its next check."""
    progress: Progress | None
    result: dict[str, Any] | None
    """What came of it; its fields depend on the kind."""
    error: Failure | None
    request_id: str | None
    """The request that ordered it."""
    trace_id: str | None
    created_at: int
    """Unix seconds."""
    started_at: int | None
    """Unix seconds; null until it is begun."""
    finished_at: int | None
    """Unix seconds; null until it is over."""


class JobEventObject(Answer):
    """What a job said while it ran."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "jobevent_42",
                    "object": "job.event",
                    "job_id": _JOB_ID,
                    "created_at": 1767225640,
                    "level": "warn",
                    "type": "gold_documents_missing",
                    "message": "2 of 40 gold documents are not in the corpus, such as 'lamp.md'.",
                    "data": None,
                }
            ]
        }
    )

    id: str
    """Later events have higher numbers."""
    object: Literal["job.event"]
    job_id: str
    created_at: int
    """Unix seconds."""
    level: Literal["info", "warn", "error"]
    type: str
    """`message`, `metrics`, or a word for what happened."""
    message: str
    data: dict[str, Any] | None
    """Facts for programs; their fields depend on the type."""
