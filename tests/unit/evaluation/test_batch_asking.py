"""Asking a batch's lines: what counts as an answer, and what is asked again."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from services.evaluation.batches import asking
from services.evaluation.batches.domain import Line
from services.evaluation.batches.errors import AnsweringStalled
from services.evaluation.batches.tables import Batch
from shared.errors import InvalidInput, Unavailable, UpliftError
from shared.live import LiveClient, WorkerSilent

LINES = [Line(number, f"q{number}", {"model": "m"}) for number in (1, 2, 3)]


class Answers:
    """A live client that answers with what it is told, in the order of the questions."""

    def __init__(self, *said: dict[str, Any] | UpliftError) -> None:
        self._said = said

    def ask_many(
        self, queue: str, kind: str, project_id: str, bodies: Iterator[dict[str, Any]], **options: Any
    ) -> Iterator[tuple[int, dict[str, Any] | UpliftError]]:
        self.asked = (queue, kind, project_id)
        name: Callable[[int], str] = options["name"]
        for index, (_body, said) in enumerate(zip(bodies, self._said, strict=False)):
            name(index)
            yield index, said


def batch(endpoint: str = "/v1/chat/completions") -> Batch:
    return Batch(id="batch_x", project_id="proj_x", endpoint=endpoint)


def good(tokens: int = 2) -> dict[str, Any]:
    return {"object": "chat.completion", "usage": {"prompt_tokens": tokens, "completion_tokens": 1}}


def ask(live: Answers, stalls: dict[int, int] | None = None, endpoint: str = "/v1/chat/completions") -> list[Any]:
    saved: list[dict[str, Any]] = []
    client = cast(LiveClient, live)
    stalls = {} if stalls is None else stalls
    try:
        asking.ask(client, batch(endpoint), LINES, stalls=stalls, save=saved.extend, check=lambda: None)
    finally:
        live.saved = saved  # type: ignore[attr-defined]
    return saved


def test_keeps_answers_and_refusals_alike() -> None:
    saved = ask(Answers(good(5), InvalidInput("too hot", param="temperature"), good()))
    assert [(row["line"], row["custom_id"], row["status_code"]) for row in saved] == [
        (1, "q1", 200),
        (2, "q2", 400),
        (3, "q3", 200),
    ]
    assert [(row["input_tokens"], row["output_tokens"]) for row in saved] == [(5, 1), (0, 0), (2, 1)]
    assert '"param": "temperature"' in saved[1]["body"]
    assert all(row["request_id"].startswith("req_") for row in saved)


@pytest.mark.parametrize("away", [Unavailable("restarting"), WorkerSilent("nobody there")])
def test_stalls_where_the_workers_are_away_and_keeps_what_is_done(away: UpliftError) -> None:
    live, stalls = Answers(good(), away, good()), {}
    with pytest.raises(AnsweringStalled, match="line 2"):
        ask(live, stalls)
    assert [row["line"] for row in live.saved] == [1]  # type: ignore[attr-defined]
    assert stalls == {2: 1}


def test_takes_it_for_an_answer_when_one_line_stalls_again_and_again() -> None:
    stalls = {2: asking.MOST_STALLS}
    saved = ask(Answers(good(), Unavailable("crashed"), good()), stalls)
    assert [row["status_code"] for row in saved] == [200, 503, 200]


def test_asks_the_workers_of_the_endpoint() -> None:
    live = Answers({"object": "list", "usage": {"prompt_tokens": 4, "total_tokens": 4}})
    saved = ask(live, endpoint="/v1/embeddings")
    assert live.asked == ("retrieval.batch", "retrieval.embeddings", "proj_x")
    assert (saved[0]["input_tokens"], saved[0]["output_tokens"]) == (4, 0)
