"""Values and rules of training jobs that need no database: examples, model ids, a job's status."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

_NOT_IN_IDS = re.compile(r"[^a-z0-9_-]+")

LEARNED_FILE = "learned.json"
"""Beside the weights of a finished run: `data_sha256`, the hash of the rows as they were laid out for training."""

_KEPT_CHECKPOINTS = 3


@dataclass(frozen=True)
class Example:
    """One example as stored: the conversation before the answer, and the passages that go with it.

    `also_learned` are the places in `messages` of earlier assistant turns that are learned too. A preference has the
    answer that is liked less as `rejected`.
    """

    messages: tuple[dict[str, str], ...]
    answer: str
    passages: tuple[Mapping[str, Any], ...] = ()
    also_learned: tuple[int, ...] = ()
    rejected: str | None = None
    line: int | None = None
    """Where it stood in an uploaded file, from 1."""


@dataclass(frozen=True)
class Document:
    """A text to go on pretraining on. Documents of one group are never parted between training and validation."""

    text: str
    group: str


def even_windows(length: int, most: int) -> list[tuple[int, int]]:
    """(first, last + 1) of windows that cover `length` tokens once each, none longer than `most`, all within one of
    equal: a short rest would be an example of hardly any context."""
    count = -(-length // most)
    bounds = [place * length // count for place in range(count + 1)]
    return list(pairwise(bounds))


def fine_tuned_model_id(base_model: str, project_name: str, suffix: str | None, job_id: str) -> str:
    """`ft:<base>:<project>:<suffix>:<short>`, the form that OpenAI's clients know; equal jobs give equal ids."""
    project = _NOT_IN_IDS.sub("-", project_name.lower()).strip("-") or "project"
    return f"ft:{base_model}:{project}:{suffix or ''}:{job_id[-8:]}"


def checkpoint_model_id(fine_tuned_model: str, step: int) -> str:
    """The model id of one step's weights, in OpenAI's form."""
    return f"{fine_tuned_model}:ckpt-step-{step}"


def kept_checkpoints(losses: Mapping[int, float | None]) -> set[int]:
    """Which of a job's checkpoints stay usable as models, of all by their step with the validation loss: the newest
    three, and the best where something was validated, so that a run which breaks off late has not lost it."""
    kept = set(sorted(losses)[-_KEPT_CHECKPOINTS:])
    measured = [(loss, step) for step, loss in losses.items() if loss is not None]
    return kept | {step for _, step in sorted(measured)[:1]}


def shown_status(job_status: str, *, validated: bool) -> str:
    """OpenAI's status: a job that a worker has begun and whose data is not yet known to be good is being validated."""
    return "validating_files" if job_status == "running" and not validated else job_status
