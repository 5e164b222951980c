"""Asking and scoring: rows in small batches, retrieval hits, and which failures end an evaluation."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from services.evaluation.answering import ask, scored, summarise
from services.evaluation.errors import AnswerFailed, AnswersUnavailable
from services.evaluation.material import Example
from services.evaluation.tables import Answer, Evaluation
from shared.errors import DeadlineExceeded, NotFound, UpliftError


class CannedAnswers:
    """Stands in for live requests: answers by the question's text, last question first."""

    def __init__(self, answers: dict[str, dict[str, Any] | UpliftError]) -> None:
        self.answers = answers
        self.asked: list[dict[str, Any]] = []

    def ask_many(
        self, _queue: str, _kind: str, _project: str, bodies: Iterable[dict[str, Any]], **_limits: Any
    ) -> Iterator[tuple[int, dict[str, Any] | UpliftError]]:
        self.asked = list(bodies)
        for index, body in reversed(list(enumerate(self.asked))):
            yield index, self.answers[body["messages"][-1]["content"]]


def evaluation() -> Evaluation:
    made = Evaluation(id="eval_1", project_id="proj_1", model="some model", seed=7, max_tokens=20)
    made.variant_id = None
    return made


def example(number: int, documents: tuple[str, ...] = ()) -> Example:
    return Example(f"ex_{number}", [{"role": "user", "content": f"q{number}"}], f"answer {number}", documents, "c", {})


def said(text: str, documents: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    return {
        "text": text,
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15},
        "citations": [{"document": key, "text": "…", "title": "", "score": 1.0} for key in documents],
        "timings": {"queue_ms": 1.0, "prefill_ms": 2.0, "total_ms": 30.0},
    } | more


def test_every_answer_is_scored_against_its_own_reference() -> None:
    live = CannedAnswers({f"q{n}": said(f"Answer {n}.") for n in range(70)})
    batches = list(ask(live, evaluation(), [example(n) for n in range(70)], retrieves=False, check=lambda: None))  # type: ignore[arg-type]
    rows = [row for batch in batches for row in batch]
    assert sorted(row["example_id"] for row in rows) == sorted(f"ex_{n}" for n in range(70))
    assert {row["scores"]["exact_match"] for row in rows} == {1.0}
    assert max(map(len, batches)) <= 32


def test_asks_greedily_and_for_no_more_tokens_than_ordered() -> None:
    live = CannedAnswers({"q1": said("x")})
    list(ask(live, evaluation(), [example(1)], retrieves=False, check=lambda: None))  # type: ignore[arg-type]
    (body,) = live.asked
    assert (body["model"], body["temperature"], body["max_tokens"], body["seed"]) == ("some model", 0.0, 20, 7)


def test_keeps_what_was_answered_before_a_question_that_cannot_be() -> None:
    live = CannedAnswers({"q1": NotFound("no such model"), "q2": said("x"), "q3": said("y")})
    found = ask(live, evaluation(), [example(1), example(2), example(3)], retrieves=False, check=lambda: None)  # type: ignore[arg-type]
    assert [row["example_id"] for row in next(found)] == ["ex_3", "ex_2"]
    with pytest.raises(AnswerFailed, match=r"ex_1.*no such model"):
        next(found)


def test_a_late_answer_lets_the_job_be_tried_again() -> None:
    live = CannedAnswers({"q1": DeadlineExceeded("too late")})
    with pytest.raises(AnswersUnavailable, match="ex_1") as caught:
        list(ask(live, evaluation(), [example(1)], retrieves=False, check=lambda: None))  # type: ignore[arg-type]
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("gold", "found", "hit"),
    [(("a.md",), ("b.md", "a.md"), True), (("a.md",), ("b.md",), False), (("a.md",), (), False), ((), ("b.md",), None)],
)
def test_a_hit_is_a_gold_document_among_the_retrieved(
    gold: tuple[str, ...], found: tuple[str, ...], hit: bool | None
) -> None:
    row = scored(evaluation(), example(1, gold), said("x", found), retrieves=True)
    assert row["retrieval_hit"] is hit
    assert ("mrr" in row["scores"]) is (hit is not None)


def test_without_retrieval_nothing_is_said_about_it() -> None:
    row = scored(evaluation(), example(1, ("a.md",)), said("x"), retrieves=False)
    assert row["retrieval_hit"] is None
    assert "mrr" not in row["scores"]


def test_the_summary_averages_each_score_over_the_answers_that_have_it() -> None:
    rows = [
        scored(evaluation(), example(1, ("a.md",)), said("answer 1", ("a.md",)), retrieves=True),
        scored(evaluation(), example(2), said("wrong", ("a.md",), finish_reason="length"), retrieves=True),
    ]
    summary = summarise([Answer(**row) for row in rows])
    assert summary["examples"] == 2
    assert summary["metrics"]["exact_match"] == 0.5
    assert summary["metrics"]["mrr"] == 1.0
    assert summary["retrieval_hits"] == 1.0
    assert summary["cut_off"] == 1
    assert summary["latency_ms"] == {"p50": 30.0, "p95": 30.0}
