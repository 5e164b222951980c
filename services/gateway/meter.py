"""Charging the tokens of answers: in a moment to the minute in Redis, within a second to the month in Postgres."""

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
_BREATH_SECONDS = 0.02
"""What the meter waits once it is woken, so that it does not take the interpreter from the answer it charges for; what
comes meanwhile is charged with it."""
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
            open_ = self._charge_minutes(self._gathered(timeout=FLUSH_SECONDS if self._pending else None))
            if not open_ or time.monotonic() - flushed >= FLUSH_SECONDS:
                self._flush()
                flushed = time.monotonic()

    def _gathered(self, timeout: float | None) -> list[_Charge | None]:
        """What has come within a breath of the first charge; nothing if there is none within `timeout` seconds."""
        try:
            charges = [self._charges.get(timeout=timeout)]
        except queue.Empty:
            return []
        if charges[0] is not None:
            time.sleep(_BREATH_SECONDS)
        while not self._charges.empty():  # nobody else takes any
            charges.append(self._charges.get())
        return charges

    def _charge_minutes(self, charges: list[_Charge | None]) -> bool:
        """Count the tokens; false once the end is among them."""
        tokens: Counter[Allowance] = Counter()
        for charge in charges:
            if charge is not None:
                allowed, project_id, used = charge
                tokens[allowed] += used
                self._pending[project_id] += used
        for allowed, used in tokens.items():
            self._rates.charge(allowed, used)
        return None not in charges

    def _flush(self) -> None:
        for project_id, tokens in list(self._pending.items()):
            try:
                with self._database.transaction(project_id) as session:
                    quotas.add_tokens(session, project_id, tokens)
            except SQLAlchemyError as error:
                log.error("usage not written; it is tried again", project_id=project_id, error=str(error))
                continue
            del self._pending[project_id]
