"""Log lines carry the service and the trace, whichever thread writes them."""

import json
import logging
import threading

import pytest
import structlog

from shared.telemetry import configure_logging, logger, trace_id_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_goes_on_with_the_callers_trace() -> None:
    assert trace_id_of(f"00-{TRACE}-00f067aa0ba902b7-01") == TRACE
    assert trace_id_of(f"01-{TRACE}-00f067aa0ba902b7-01-what-a-later-version-adds") == TRACE


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        f"00-{TRACE}-00f067aa0ba902b7",
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
    ],
)
def test_starts_a_trace_where_the_header_has_none(header: str | None) -> None:
    first, second = trace_id_of(header), trace_id_of(header)
    assert first != second
    assert all(len(found) == 32 and int(found, 16) for found in (first, second))
    assert TRACE not in {first, second}


def test_names_the_service_and_the_bound_ids_in_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    before, level = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        configure_logging(service="tested")
        with structlog.contextvars.bound_contextvars(trace_id=TRACE):
            logger("here").info("bound")
        thread = threading.Thread(target=lambda: logger("there").info("elsewhere"))
        thread.start()
        thread.join()
        bound, elsewhere = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers[:] = before
        logging.getLogger().setLevel(level)
    assert (bound["event"], bound["service"], bound["trace_id"]) == ("bound", "tested", TRACE)
    assert (elsewhere["event"], elsewhere["service"], "trace_id" in elsewhere) == ("elsewhere", "tested", False)
