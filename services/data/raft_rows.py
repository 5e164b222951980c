"""Fetching real passages for RAFT rows, many questions at once, over retrieval's batch queue."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from services.data import repository
from services.data.domain import SPLITS, Placed
from services.data.errors import GoldDocumentsUnknown
from services.data.raft import RaftSpec, choose_rows, compose, find_gold, hidden_documents, keeps_gold
from shared.errors import UpliftError
from shared.jobs import JobContext
from shared.prompt_format import Passage

_QUERIES_AT_ONCE = 16
_REQUESTS_IN_FLIGHT = 4
_SEARCH_SECONDS = 120.0


def build_rows(context: JobContext, spec: RaftSpec, placed: Sequence[Placed]) -> tuple[list[Placed], dict[str, Any]]:
    """The chosen rows with their passages, and a report on what retrieval found. Raises what retrieval refuses."""
    rows = choose_rows(placed, spec.rows_limit, seed=spec.seed)
    gold = _gold_passages(context, spec, rows)
    found = _search(context, spec, [row.example.question for row in rows])
    sure = keeps_gold([row for row in rows if row.split == "train"], spec.gold_share, seed=spec.seed)
    hidden = {split: hidden_documents(placed, split) for split in SPLITS}
    built = []
    for number, row in enumerate(rows):
        example = compose(
            row.example,
            found[number],
            find_gold(row.example, gold),
            k=spec.k,
            # choose_rows puts the training rows first; validation stays as retrieved, the way serving will see it
            keep_gold=number in sure if row.split == "train" else None,
            hidden=hidden[row.split],
            seed=spec.seed,
        )
        built.append(Placed(example, row.split, row.cluster))
    return built, _report(built)


def _gold_passages(context: JobContext, spec: RaftSpec, rows: Sequence[Placed]) -> dict[str, list[Passage]]:
    """The corpus's passages of the rows' gold documents; refuses a dataset that names documents by other names."""
    names = {name for row in rows for name in row.example.documents}
    with context.wiring.database.transaction(context.project_id) as session:
        found = repository.passages_of_documents(session, spec.vector_store_id, names)
        if names and not found:
            there = repository.some_document_key(session, spec.vector_store_id)
            raise GoldDocumentsUnknown(
                f"None of the {len(names)} gold documents (such as {min(names)!r}) is in vector store "
                f"{spec.vector_store_id}, whose documents have names such as {there!r}. Examples must name their "
                "document by its file name within the corpus.",
                param="vector_store",
            )
    if len(found) < len(names):
        missing = sorted(names - set(found))
        context.event(
            f"{len(missing)} of {len(names)} gold documents are not in the corpus, such as {missing[0]!r}.",
            level="warn",
            type="gold_documents_missing",
            step=0,
        )
    return found


def _search(context: JobContext, spec: RaftSpec, questions: Sequence[str]) -> list[list[Passage]]:
    """Passages per question. More than k are asked for, since hidden and withheld documents are left out later."""
    batches = [questions[i : i + _QUERIES_AT_ONCE] for i in range(0, len(questions), _QUERIES_AT_ONCE)]
    answers: dict[int, list[list[Passage]]] = {}
    for number, answer in _ask(context, spec, batches):
        answers[number] = [[Passage.model_validate(one) for one in found] for found in answer["results"]]
        context.check()
        context.progress(sum(map(len, answers.values())), len(questions), "questions", "fetching passages")
    return [found for number in range(len(batches)) for found in answers[number]]


def _ask(context: JobContext, spec: RaftSpec, batches: Sequence[Sequence[str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    bodies = [{"vector_store_id": spec.vector_store_id, "query": list(batch), "k": 2 * spec.k + 4} for batch in batches]
    asked = context.wiring.live.ask_many(
        "retrieval.batch",
        "retrieval.search",
        context.project_id,
        bodies,
        concurrency=_REQUESTS_IN_FLIGHT,
        timeout_s=_SEARCH_SECONDS,
        tick=context.check,
    )
    with closing(asked):
        for number, answer in asked:
            if isinstance(answer, UpliftError):
                raise answer
            yield number, answer


def _report(built: Sequence[Placed]) -> dict[str, Any]:
    def of(split: str) -> dict[str, Any]:
        inside = [one.example for one in built if one.split == split]
        return {
            "examples": len(inside),
            "gold": dict(sorted(Counter(example.provenance["gold"] for example in inside).items())),
            "passages": sum(len(example.passages or ()) for example in inside),
        }

    return {"examples": len(built), "splits": {split: of(split) for split in SPLITS}, "warnings": []}
