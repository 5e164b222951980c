"""Asking the lines of a batch, many at once, and keeping each answer as it comes."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any

from services.evaluation.asking import CONCURRENCY, TIMEOUT_SECONDS
from services.evaluation.batches.domain import Line
from services.evaluation.batches.errors import AnsweringStalled
from services.evaluation.batches.tables import Batch
from shared.errors import UpliftError
from shared.ids import new_id
from shared.live import LiveClient, WorkerSilent
from shared.web import error_body

MOST_STALLS = 3
"""So many times a line may find the workers away before that is its answer."""
_ROWS_AT_ONCE = 32
_WORKERS = {
    "/v1/chat/completions": ("generation.batch", "generation.completion"),
    "/v1/embeddings": ("retrieval.batch", "retrieval.embeddings"),
}


def ask(
    live: LiveClient,
    batch: Batch,
    lines: Iterable[Line],
    *,
    stalls: dict[int, int],
    save: Callable[[list[dict[str, Any]]], None],
    check: Callable[[], None],
) -> None:
    """Ask `lines`; `save` gets rows for batch_answers about once a second, `check` may raise to end the asking.

    Raises AnsweringStalled when the workers are away (counting for the line in `stalls`): what is saved stays, what
    is missing should be asked again later.
    """
    queue, kind = _WORKERS[batch.endpoint]
    names: dict[int, str] = {}
    in_flight: dict[int, Line] = {}
    rows: list[dict[str, Any]] = []

    def name(index: int) -> str:
        return names.setdefault(index, new_id("req_"))

    def bodies() -> Iterator[dict[str, Any]]:
        for index, line in enumerate(lines):
            in_flight[index] = line
            yield line.body

    def tick() -> None:
        if rows:
            save(list(rows))
            rows.clear()
        check()

    found = live.ask_many(
        queue,
        kind,
        batch.project_id,
        bodies(),
        concurrency=CONCURRENCY,
        timeout_s=TIMEOUT_SECONDS,
        name=name,
        tick=tick,
    )
    with closing(found):  # however this ends, nobody goes on answering lines that are no longer asked
        for index, said in found:
            line, request_id = in_flight.pop(index), names.pop(index, "")
            if _workers_are_away(said) and stalls.get(line.number, 0) < MOST_STALLS:
                stalls[line.number] = stalls.get(line.number, 0) + 1
                tick()
                raise AnsweringStalled(f"line {line.number}: {said}")
            rows.append(_row(batch, line, said, request_id))
            if len(rows) >= _ROWS_AT_ONCE:
                tick()
    tick()


def _workers_are_away(said: dict[str, Any] | UpliftError) -> bool:
    return isinstance(said, WorkerSilent) or (isinstance(said, UpliftError) and said.status == 503)


def _row(batch: Batch, line: Line, said: dict[str, Any] | UpliftError, request_id: str) -> dict[str, Any]:
    failed = isinstance(said, UpliftError)
    body = error_body(said) if isinstance(said, UpliftError) else said
    usage = {} if isinstance(said, UpliftError) else said["usage"]
    return {
        "batch_id": batch.id,
        "project_id": batch.project_id,
        "line": line.number,
        "custom_id": line.custom_id,
        "status_code": said.status if isinstance(said, UpliftError) else 200,
        "request_id": request_id,
        "body": json.dumps(body),
        "input_tokens": 0 if failed else usage["prompt_tokens"],
        "output_tokens": 0 if failed else usage.get("completion_tokens", 0),
    }
