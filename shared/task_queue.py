"""Celery as we use it: early-acknowledged JSON wake-ups on named queues, no results, no ETA, nothing prefetched."""

import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery, signals
from celery.worker.request import Request
from kombu import Queue

from shared import garbage
from shared.settings import Settings
from shared.telemetry import configure_logging, logger

RUN_JOB = "uplift.run_job"
ANSWER_LIVE = "uplift.answer_live"
log = logger(__name__)
_SWITCH_SECONDS = 0.0005
"""How long a thread waits before it demands the interpreter. A thread that computes gives it up for each operation and
has it back before a waiting one wakes, so that one waits for the whole interval: with Python's 5 ms, twice for a token
on its way out."""


class GoneWhenRead(Request):
    """A message that nobody holds any more: kombu would still ask Redis, in a transaction, to forget it."""

    def acknowledge(self) -> None:
        self.acknowledged = True


def make_publisher(settings: Settings) -> Celery:
    """A Celery app that only sends: the dispatcher and the live client publish through it."""
    app = Celery("uplift", broker=settings.redis_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        result_backend=None,
        task_acks_late=False,
        task_track_started=False,
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_soft_shutdown_timeout=0,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_pool_limit=8,
        broker_transport_options={
            "socket_timeout": 15,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "queue_order_strategy": "round_robin",
            # of the usual four, each a list of its own that every wait names; no message of ours has a priority
            "priority_steps": [0],
        },
        task_publish_retry=True,
        task_publish_retry_policy={
            "max_retries": 3,
            "interval_start": 0.05,
            "interval_step": 0.2,
            "interval_max": 1,
        },
    )
    return app


def make_worker_app(
    name: str,
    queues: list[str],
    wiring_factory: Callable[[], Any],
    job_handlers: dict[Any, Any],
    live_handlers: dict[str, Any] | None = None,
) -> Celery:
    """The Celery app of one service's worker (thread pool): two tasks, run a job and answer a live request.

    The wiring is built when the worker is ready to work, not at import, so that importing a worker costs nothing.
    """
    settings = Settings()
    app = make_publisher(settings)
    app.main = name
    # a message is gone once it is read: jobs are woken again from their rows, live requests by their clients; keeping
    # each in a second list until its acknowledgement is two more trips to Redis before any work begins. How many are
    # read is bounded by `worker_disable_prefetch` (free slots), not by what is unacknowledged
    app.conf.task_queues = [Queue(queue, no_ack=True) for queue in queues]
    state = _WorkerState(name, wiring_factory, job_handlers, live_handlers or {})

    # not shared: Celery would hand a task to every other app of the process, whose own of that name it may replace
    @app.task(name=RUN_JOB, ignore_result=True, shared=False, Request=GoneWhenRead)
    def run_job(project_id: str, job_id: str) -> None:
        state.runner.run(project_id, job_id)

    @app.task(name=ANSWER_LIVE, ignore_result=True, shared=False, Request=GoneWhenRead)
    def answer_live(message: dict[str, Any]) -> None:
        state.live_server.answer(message)

    signals.worker_init.connect(state.start, weak=False)
    signals.worker_ready.connect(state.ready, weak=False)
    signals.worker_shutting_down.connect(state.hand_over, weak=False)
    signals.worker_shutdown.connect(state.close, weak=False)
    signals.setup_logging.connect(lambda **_: _configure_logging(settings.log_level, name), weak=False)
    return app


def _configure_logging(level: str, service: str) -> None:
    configure_logging(level, service=service)
    # a line for every message read and every task done says less than those of the jobs and requests themselves
    for chatty in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class _WorkerState:
    """What one worker process holds between its start and its end."""

    def __init__(
        self,
        name: str,
        wiring_factory: Callable[[], Any],
        job_handlers: dict[Any, Any],
        live_handlers: dict[str, Any],
    ) -> None:
        self._name = f"{name}@{os.uname().nodename}:{os.getpid()}"
        self._wiring_factory = wiring_factory
        self._job_handlers = job_handlers
        self._live_handlers = live_handlers
        self._started = threading.Lock()

    def start(self, **_: Any) -> None:
        # imported here: the dispatcher and the gateway use this module without these
        from shared.jobs.runner import JobRunner
        from shared.live import LiveServer

        sys.setswitchinterval(_SWITCH_SECONDS)
        with self._started:
            self.wiring = self._wiring_factory()
            self.runner = JobRunner(self.wiring, self._job_handlers, worker=self._name)
            self.live_server = LiveServer(self.wiring, self._live_handlers)

    def ready(self, **_: Any) -> None:
        marker = os.environ.get("UPLIFT_READY_FILE")
        if marker:
            Path(marker).parent.mkdir(parents=True, exist_ok=True)
            Path(marker).touch()
        garbage.settle()
        log.info("worker ready")

    def hand_over(self, **_: Any) -> None:
        self.runner.shutting_down.set()

    def close(self, **_: Any) -> None:
        self.live_server.close()
        self.wiring.close()
