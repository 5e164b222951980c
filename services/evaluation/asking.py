"""Asking the live services many questions at once, in the way every job of evaluation does it."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

from shared import quotas
from shared.errors import UpliftError
from shared.jobs import JobContext
from shared.live import LiveClient

CONCURRENCY = 32
"""Questions in flight per job: what one generation batch takes."""
TIMEOUT_SECONDS = 600.0
"""From a worker's admission. Long, because training may share the machine; a dead worker is noticed much sooner."""
_BATCH_ROWS, _BATCH_SECONDS = 32, 1.0

Said = dict[str, Any] | UpliftError
"""What became of one question: an answer's data, or the error it ended with."""
Found = TypeVar("Found")


def check_job(context: JobContext) -> None:
    """Raise JobCancelled or HandOver where the work shall stop, QuotaExceeded once the month's tokens are used.

    Call it before the first question and, as `tick`, while answers are waited for: the gateway sees none of them.
    """
    context.check()
    with context.wiring.database.transaction(context.project_id) as session:
        quotas.check_tokens(session, context.wiring.settings)


def chat(
    live: LiveClient, project_id: str, bodies: Iterable[dict[str, Any]], *, check: Callable[[], None]
) -> Generator[tuple[int, Said], None, None]:
    """Chat completions as they come, each with its question's index; `bodies` is read as slots get free.

    `check` is called about once a second and ends the asking by raising; close the generator to give up.
    """
    return _ask("generation.batch", "generation.chat", live, project_id, bodies, check)


def embed(
    live: LiveClient, project_id: str, bodies: Iterable[dict[str, Any]], *, check: Callable[[], None]
) -> Generator[tuple[int, Said], None, None]:
    """Unit vectors as they come, in the same way."""
    return _ask("retrieval.batch", "retrieval.embed", live, project_id, bodies, check)


def in_batches(found: Iterable[Found]) -> Iterator[list[Found]]:
    """What comes, in batches small enough to be stored often; an error lets through what came before it."""
    kept: list[Found] = []
    flushed = time.monotonic()
    try:
        for one in found:
            kept.append(one)
            if len(kept) >= _BATCH_ROWS or time.monotonic() - flushed >= _BATCH_SECONDS:
                yield kept
                kept, flushed = [], time.monotonic()
    except Exception:
        if kept:
            yield kept
        raise
    if kept:
        yield kept


def _ask(
    queue: str,
    kind: str,
    live: LiveClient,
    project_id: str,
    bodies: Iterable[dict[str, Any]],
    check: Callable[[], None],
) -> Generator[tuple[int, Said], None, None]:
    return live.ask_many(
        queue, kind, project_id, bodies, concurrency=CONCURRENCY, timeout_s=TIMEOUT_SECONDS, tick=check
    )
