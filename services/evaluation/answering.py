"""Asking a model the questions of a split, many at once, and scoring what it answers."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from services.evaluation import asking
from services.evaluation.errors import AnswerFailed, AnswersUnavailable
from services.evaluation.material import Example
from services.evaluation.metrics import score_answer, score_retrieval
from services.evaluation.tables import Answer, Evaluation
from shared.errors import UpliftError
from shared.live import LiveClient


def ask(
    live: LiveClient,
    evaluation: Evaluation,
    todo: Sequence[Example],
    *,
    retrieves: bool,
    check: Callable[[], None],
) -> Iterator[list[dict[str, Any]]]:
    """Rows for the answers table in small batches, as the answers come.

    `check` is called about once a second and ends the asking by raising. Raises AnswerFailed (naming the example) for
    a question that cannot be answered, AnswersUnavailable where trying again later can help.
    """
    bodies = [_body(evaluation, example) for example in todo]

    def rows() -> Generator[dict[str, Any], None, None]:
        with closing(asking.chat(live, evaluation.project_id, bodies, check=check)) as found:
            for index, said in found:
                if isinstance(said, UpliftError):
                    raise _failure(evaluation, todo[index], said) from said
                yield scored(evaluation, todo[index], said, retrieves=retrieves)

    with closing(rows()) as found:
        yield from asking.in_batches(found)


def scored(evaluation: Evaluation, example: Example, said: Mapping[str, Any], *, retrieves: bool) -> dict[str, Any]:
    """One row of the answers table."""
    citations = said.get("citations") or []
    keys = [citation["document"] for citation in citations]
    measurable = retrieves and bool(example.documents)
    ranking = score_retrieval(example.documents, keys, k=max(1, len(keys))) if measurable else {}
    return {
        "evaluation_id": evaluation.id,
        "project_id": evaluation.project_id,
        "example_id": example.id,
        "answer": said["text"],
        "scores": score_answer(example.answer, said["text"]) | ranking,
        "retrieval_hit": bool(set(keys) & set(example.documents)) if measurable else None,
        "passages": citations if retrieves else None,
        "finish_reason": said["finish_reason"],
        "prompt_tokens": said["usage"]["prompt_tokens"],
        "completion_tokens": said["usage"]["completion_tokens"],
        "latency_ms": float(said["timings"]["total_ms"]),
    }


def summarise(found: Sequence[Answer]) -> dict[str, Any]:
    """What the answers add up to: means of every score, tokens per answer, latencies in milliseconds."""
    names = dict.fromkeys(name for answer in found for name in answer.scores)
    p50, p95 = np.percentile([answer.latency_ms for answer in found], [50, 95])
    hits = [answer.retrieval_hit for answer in found if answer.retrieval_hit is not None]
    return {
        "examples": len(found),
        "metrics": {name: _mean([a.scores[name] for a in found if name in a.scores]) for name in names},
        "retrieval_hits": _mean(hits) if hits else None,
        "prompt_tokens": _mean([answer.prompt_tokens for answer in found]),
        "completion_tokens": _mean([answer.completion_tokens for answer in found]),
        "cut_off": sum(answer.finish_reason == "length" for answer in found),
        "latency_ms": {"p50": round(float(p50), 1), "p95": round(float(p95), 1)},
    }


def _body(evaluation: Evaluation, example: Example) -> dict[str, Any]:
    body: dict[str, Any] = {"model": evaluation.model, "messages": list(example.messages)}
    body |= {"temperature": 0.0, "seed": evaluation.seed, "stream": False}
    return body if evaluation.max_tokens is None else body | {"max_tokens": evaluation.max_tokens}


def _failure(evaluation: Evaluation, example: Example, error: UpliftError) -> UpliftError:
    message = f"{evaluation.model} did not answer example {example.id}: {error.message}"
    if error.may_pass:
        return AnswersUnavailable(message)
    return AnswerFailed(message, param=example.id)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
