"""The dispatcher: publishes committed wake-ups at once, and (one leader at a time) mends what crashes and wipes left.

Run `python -m shared.dispatcher`; run as many as you like. Every process relays (rows are taken with SKIP LOCKED); the
one that holds the advisory lock also requeues expired leases, wakes queued jobs whose wake-up Redis lost and orders
the deletion of expired files.
"""

import os
import signal
import threading
from pathlib import Path
from types import FrameType

import psycopg
import redis
import sqlalchemy as sa
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from shared.database import Database
from shared.settings import Settings
from shared.stop_flag import StopFlag
from shared.task_queue import RUN_JOB, make_publisher
from shared.telemetry import configure_logging, logger

log = logger(__name__)
_BATCH = 200
_LEADER_KEY = "uplift.dispatcher"


class Dispatcher:
    """Moves wake-ups from Postgres to Redis. It holds no state worth keeping: kill it at any moment."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings.database_url, pool_size=3)
        self._redis = redis.Redis.from_url(settings.redis_url, socket_timeout=5)
        self._publisher = make_publisher(settings)
        self._stop = StopFlag()

    def run(self) -> None:
        """Relay until stopped; the reconciler runs beside in a thread."""
        reconciler = threading.Thread(target=self._reconcile_forever, name="reconciler", daemon=True)
        reconciler.start()
        while not self._stop.is_set():
            try:
                self._relay_until_disconnected()
            except (psycopg.Error, SQLAlchemyError, BrokerError, redis.RedisError, OSError) as error:
                log.warning("relay waits: Postgres or Redis is not reachable", error=str(error).splitlines()[0])
                self._stop.wait(1.0)
        reconciler.join(timeout=10)
        self._database.close()

    def stop(self) -> None:
        self._stop.set()

    def relay_once(self) -> int:
        """Publish up to a batch of committed wake-ups; the rows leave only if all of them were published."""
        with self._database.system_transaction() as session:
            rows = session.execute(sa.text("SELECT * FROM take_outbox(:most)"), {"most": _BATCH}).all()
            for row in rows:
                self._publisher.send_task(RUN_JOB, args=[row.project_id, row.job_id], queue=row.queue)
        return len(rows)

    def reconcile_once(self) -> None:
        """Requeue jobs whose lease ran out; wake jobs that Redis forgot; order the deletion of what has expired."""
        with self._database.system_transaction() as session:
            for job_id, became in session.execute(sa.text("SELECT * FROM requeue_expired_jobs()")):
                log.warning("lease expired", job_id=job_id, became=became)
            stale_after = self._settings.unclaimed_seconds
            found = session.execute(sa.text("SELECT * FROM unclaimed_jobs(:older)"), {"older": stale_after}).all()
            for queue, waiting, stale in found:
                # as many messages as jobs wait: the workers are only behind, another wake-up would be noise
                if not stale or self._redis.llen(queue) >= waiting:
                    continue
                woken = session.execute(
                    sa.text("SELECT wake_unclaimed_jobs(:queue, :older)"),
                    {"queue": queue, "older": stale_after},
                ).scalar_one()
                log.warning("jobs woken again", queue=queue, jobs=woken)

        self._order_purges()

    def _order_purges(self) -> None:
        with self._database.system_transaction() as session:
            every = {"every": self._settings.purge_seconds}
            ordered = session.execute(sa.text("SELECT order_purges(:every)"), every).scalar_one()
        if ordered:
            log.info("purges ordered", projects=ordered)

    def _relay_until_disconnected(self) -> None:
        with psycopg.connect(_plain_url(self._settings.database_url), autocommit=True) as listener:
            listener.execute("LISTEN uplift_outbox")
            while not self._stop.is_set():
                while self.relay_once() == _BATCH:
                    pass
                for _ in listener.notifies(timeout=1.0, stop_after=1):
                    pass

    def _reconcile_forever(self) -> None:
        while not self._stop.is_set():
            try:
                self._reconcile_while_leading()
            except (SQLAlchemyError, redis.RedisError, OSError) as error:
                log.warning("reconciler waits", error=str(error).splitlines()[0])
            self._stop.wait(self._settings.reconcile_seconds)

    def _reconcile_while_leading(self) -> None:
        with self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            leads = sa.text("SELECT pg_try_advisory_lock(hashtext(:key))")
            if not connection.execute(leads, {"key": _LEADER_KEY}).scalar_one():
                return
            try:
                while not self._stop.is_set():
                    connection.execute(sa.text("SELECT 1"))  # the lock lives as long as this connection
                    self.reconcile_once()
                    self._stop.wait(self._settings.reconcile_seconds)
            finally:
                if not connection.invalidated:
                    self._unlock(connection)

    def _unlock(self, connection: sa.Connection) -> None:
        try:
            connection.execute(sa.text("SELECT pg_advisory_unlock(hashtext(:key))"), {"key": _LEADER_KEY})
        except OperationalError:
            log.info("leadership ended with its connection")


def _plain_url(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


def main() -> None:
    """The process's entry point: runs until SIGTERM or SIGINT."""
    settings = Settings()
    configure_logging(settings.log_level, service="dispatcher")
    dispatcher = Dispatcher(settings)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        dispatcher.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    marker = os.environ.get("UPLIFT_READY_FILE")
    if marker:
        Path(marker).parent.mkdir(parents=True, exist_ok=True)
        Path(marker).touch()
    dispatcher.run()


if __name__ == "__main__":
    main()
