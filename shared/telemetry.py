"""Structured logs: one JSON line an event, carrying the request, job and trace ids that are bound to it."""

import logging
import re
import secrets
import sys
from typing import Any

import structlog

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


def configure_logging(level: str = "INFO", *, service: str) -> None:
    """Send structlog and the standard library's loggers through one JSON renderer to standard error."""

    def name_service(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        # not a bound variable: those belong to one request or job and do not reach other threads
        return {"service": service, **event}

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        name_service,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def trace_id_of(traceparent: str | None) -> str:
    """The caller's trace id (32 hex digits) where the header is a W3C Trace Context `traceparent`, else a new one.

    It goes from a request to every job and live request that follows from it, however many services later.
    """
    found = _TRACEPARENT.fullmatch((traceparent or "").strip())
    return found[1] if found else secrets.token_hex(16)


def bound(name: str) -> str | None:
    """A bound id ("request_id", "trace_id") of the request or job that this thread works for; None outside one."""
    value = structlog.contextvars.get_contextvars().get(name)
    return None if value is None else str(value)


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """A named logger; bind ids with ``structlog.contextvars.bound_contextvars(job_id=…)``."""
    found: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return found
