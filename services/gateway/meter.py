"""Charging the tokens of answers: at once to the minute in Redis, within a second to the month in Postgres."""

import queue
import threading
import time
from collections import Counter

from sqlalchemy.exc import SQLAlchemyError

from services.gateway.limits import Allowance, RateLimits
from shared import quotas
from shared.database import Database
from shared.telemetry import logger

log = logger(__name__)
_Charge = tuple[Allowance, str, int]
FLUSH_SECONDS = 1.0
"""A process that is killed forgets at most what it counted in this time; one that is stopped forgets nothing."""


class TokenMeter:
    """A thread that charges, so that no answer waits for it and a project's row is written once a second at most."""

    def __init__(self, rates: RateLimits, database: Database) -> None:
        self._rates, self._database = rates, database
        self._charges: queue.SimpleQueue[_Charge | None] = queue.SimpleQueue()
        self._pending: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name="token-meter", daemon=True)
        self._thread.start()

    def charge(self, allowed: Allowance, project_id: str, tokens: int) -> None:
        """Never blocks; `tokens` of one answer."""
        if tokens > 0:
            self._charges.put((allowed, project_id, tokens))

    def close(self) -> None:
        """Charge what is outstanding and stop."""
        self._charges.put(None)
        self._thread.join(timeout=10)

    def _run(self) -> None:
        flushed, open_ = time.monotonic(), True
        while open_:
            try:
                charge = self._charges.get(timeout=FLUSH_SECONDS if self._pending else None)
                open_ = charge is not None
            except queue.Empty:
                charge = None
            if charge is not None:
                allowed, project_id, tokens = charge
                self._rates.charge(allowed, tokens)
                self._pending[project_id] += tokens
            if not open_ or time.monotonic() - flushed >= FLUSH_SECONDS:
                self._flush()
                flushed = time.monotonic()

    def _flush(self) -> None:
        for project_id, tokens in list(self._pending.items()):
            try:
                with self._database.transaction(project_id) as session:
                    quotas.add_tokens(session, project_id, tokens)
            except SQLAlchemyError as error:
                log.error("usage not written; it is tried again", project_id=project_id, error=str(error))
                continue
            del self._pending[project_id]
