"""Time, in one place: aware datetimes inside, unix seconds at the OpenAI-shaped edge."""

from datetime import UTC, datetime


def now() -> datetime:
    """The current moment, timezone-aware, in UTC."""
    return datetime.now(UTC)


def unix(moment: datetime | None) -> int | None:
    """Whole seconds since the epoch, as OpenAI's objects carry them; None stays None."""
    return None if moment is None else int(moment.timestamp())
