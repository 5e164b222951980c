"""What is attached to a store, when it expires and how a batch of files stands: rules without a database."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

ACTIVE_SECONDS = 60
"""A store's `last_active_at` is this exact: searches write it at most so often."""


@dataclass(frozen=True)
class ToAttach:
    """A file as its owner names it; `chunking` {most, overlap} is None for the store's.

    It is named in `field` of the order, or of the part of it that begins with `where`, such as "files.2.".
    """

    file_id: str
    attributes: dict[str, Any]
    chunking: dict[str, Any] | None = None
    field: str = "file_ids"
    where: str = ""

    @property
    def param(self) -> str:
        return self.where + self.field


def sizes_used(asked: Mapping[str, int], reads: int | None) -> dict[str, int]:
    """What passages are cut by: no more than the embedder reads, for what it does not read cannot be found by it.

    An order beyond that is refused; the service's own sizes, and stores that are older than this rule, have to fit.
    """
    most = asked["most"] if reads is None else min(asked["most"], reads)
    return {"most": most, "overlap": min(asked["overlap"], most // 2)}


def expires_at(last_active_at: datetime, days: int | None) -> datetime | None:
    """`days` after the store was last used; None when it never expires."""
    return None if days is None else last_active_at + timedelta(days=days)


def is_stale(last_active_at: datetime, moment: datetime) -> bool:
    """Whether a use at `moment` is worth writing down."""
    return moment - last_active_at >= timedelta(seconds=ACTIVE_SECONDS)


def batch_status(counts: Mapping[str, int], job_status: str | None) -> str:
    """A batch is over when none of its files waits; files that fail by themselves do not fail the batch."""
    if counts["in_progress"]:
        return "in_progress"
    return job_status if job_status in {"failed", "cancelled"} else "completed"
