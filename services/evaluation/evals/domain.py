"""What an eval run is made of: rows, answers to them, grades, and how those add up."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from services.evaluation.statistics import proportion_interval
from shared.errors import UpliftError

RunStatus = Literal["queued", "in_progress", "completed", "failed", "canceled"]
ItemStatus = Literal["pass", "fail", "error"]
_STATUS_OF_JOB = {"running": "in_progress", "succeeded": "completed", "cancelled": "canceled"}
_ASKING = frozenset({"score_model", "label_model"})
MOST_ITEMS = 100_000


@dataclass(frozen=True)
class Entry:
    """One row of a data source; `sample` is an answer that came with it."""

    item: dict[str, Any]
    sample: dict[str, Any] | None = None


@dataclass(frozen=True)
class Usage:
    """What one request to a model took, in tokens."""

    model: str
    prompt_tokens: int
    completion_tokens: int = 0


@dataclass(frozen=True)
class Grade:
    """One grader's word on one row. With an `error` there is neither score nor verdict."""

    passed: bool | None = None
    score: float | None = None
    error: dict[str, str] | None = None
    sample: dict[str, Any] | None = None
    """What a grading model was asked and said."""
    usage: Usage | None = None


@dataclass(frozen=True)
class Answered:
    """A row with what was asked and said about it (`sample`, in OpenAI's shape)."""

    row: int
    sample: dict[str, Any]
    usage: Usage | None = None

    @property
    def failed(self) -> bool:
        """There is an error instead of an answer, so there is nothing to grade."""
        return self.sample["error"] is not None


@dataclass(frozen=True)
class Criterion:
    """How one criterion went: `errored` rows have no verdict and are in no rate."""

    passed: int = 0
    failed: int = 0
    errored: int = 0


@dataclass(frozen=True)
class Tally:
    """How a run stands: rows by status, criteria by their place in the eval, requests by model."""

    statuses: Mapping[str, int] = field(default_factory=dict)
    criteria: Mapping[int, Criterion] = field(default_factory=dict)
    usage: tuple[dict[str, Any], ...] = ()


def asks_models(criteria: Iterable[Mapping[str, Any]]) -> bool:
    """Whether grading by these criteria, as an eval keeps them, uses tokens."""
    return any(one["type"] in _ASKING or one.get("evaluation_metric") == "cosine" for one in criteria)


def error_record(error: UpliftError) -> dict[str, str]:
    """OpenAI's shape of an error within a run."""
    return {"code": error.code, "message": error.message}


def run_status(job_status: str) -> str:
    """OpenAI's word for a job's state; `queued` and `paused` are the same in both."""
    return _STATUS_OF_JOB.get(job_status, job_status)


def job_statuses(status: RunStatus) -> list[str]:
    """The job states that a run of this status can have."""
    return [job for job in ("queued", "running", "succeeded", "failed", "cancelled") if run_status(job) == status]


def pass_rate(passed: int, failed: int) -> dict[str, float] | None:
    """The share that passed with Wilson's 95 % limits; None where nothing has a verdict."""
    if passed + failed == 0:
        return None
    low, high = proportion_interval(passed, passed + failed)
    return {"mean": passed / (passed + failed), "low": low, "high": high}


def scope(entry: Entry, sample: Mapping[str, Any] | None) -> dict[str, Any]:
    """What templates see: the row, and the answer to it (the model's as we store it, or the row's own)."""
    given = entry.sample if sample is None else _namespace(sample)
    return {"item": entry.item} if given is None else {"item": entry.item, "sample": _with_json(given)}


def _namespace(sample: Mapping[str, Any]) -> dict[str, Any]:
    output = sample["output"]
    text = output[0]["content"] if output else ""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": sample["finish_reason"]}
    return {"model": sample["model"], "choices": [choice], "output_text": text}


def _with_json(sample: dict[str, Any]) -> dict[str, Any]:
    """`output_json` is the answer read as JSON, where it is an object or a list."""
    text = sample.get("output_text")
    if "output_json" in sample or not isinstance(text, str):
        return sample
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # the second: brackets within brackets, a thousand deep
        return sample
    return sample | {"output_json": found} if isinstance(found, (dict, list)) else sample
