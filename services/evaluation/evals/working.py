"""One claim of a run's job at work: ask what has no answer, grade what has no grade, store both as they come."""

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from services.evaluation import asking
from services.evaluation.asking import Said
from services.evaluation.errors import MissingVariable
from services.evaluation.evals import prompts, repository
from services.evaluation.evals.domain import Answered, Entry, Grade, Usage, error_record, scope
from services.evaluation.evals.failures import stopping
from services.evaluation.evals.graders import AskingGrader, CosineGrader, Grader, grader
from services.evaluation.evals.run_schemas import DataSource, Jsonl
from services.evaluation.evals.samples import answer, given, unasked
from services.evaluation.evals.schemas import Criterion
from shared import quotas
from shared.errors import UpliftError
from shared.ids import new_id
from shared.jobs import JobContext
from shared.live.vectors import unpacked

_CHUNK = 200
"""Rows that are graded and stored together where no model is waited for."""
Graded = tuple[int, int, Grade]
"""A grade with its row's and its criterion's number."""


@dataclass(frozen=True)
class Done:
    """What earlier claims stored."""

    answered: set[int]
    waiting: dict[int, dict[str, Any]]
    """Answers that lack grades."""
    graded: set[tuple[int, int]]
    """(row, criterion) of the grades that the waiting have."""


@dataclass(frozen=True)
class _Ask:
    """One request to a model: for a row's answer, or (with a criterion's number) for a grade."""

    row: int
    body: dict[str, Any]
    criterion: int | None = None


class RunAtWork:
    """A run's rows, graders and the requests that are still to be sent."""

    def __init__(
        self,
        context: JobContext,
        run_id: str,
        ordered: DataSource,
        criteria: Sequence[Criterion],
        entries: Sequence[Entry],
        done: Done,
        *,
        embedder: str,
    ) -> None:
        self._context, self._id, self._embedder = context, run_id, embedder
        self._ordered, self._criteria, self._entries, self._done = ordered, criteria, entries, done
        self._graders: list[Grader] = [grader(criterion) for criterion in criteria]
        self._samples = dict(done.waiting)
        self._asks: deque[_Ask] = deque()
        self._unbegun = _chunks([row for row in range(len(entries)) if row not in done.answered])
        finished = len(done.answered) - len(done.waiting)
        self._grades_done = finished * len(criteria) + len(done.graded)

    def work(self) -> None:
        """Until nothing is missing.

        Raises AnswersUnavailable where trying again later can help, EvalModelNotFound for a model that is not here.
        """
        self._show_progress()
        for chunk in _chunks(sorted(self._samples)):
            self._grade(chunk)
        while self._requests_wait():
            self._ask()

    def _requests_wait(self) -> bool:
        """Whether there is a request to send; rows are begun only as requests run out."""
        while not self._asks:
            chunk = next(self._unbegun, None)
            if chunk is None:
                return False
            self._begin(chunk)
        return True

    def _begin(self, rows: Sequence[int]) -> None:
        """Rows that bring their answers are graded now, the others are asked about."""
        ordered = self._ordered
        if isinstance(ordered, Jsonl):
            self._take([given(row, self._entries[row]) for row in rows])
            return
        messages = prompts.messages_of(ordered.input_messages)
        broken: list[Answered] = []
        for row in rows:
            try:
                asked = messages.render(scope(self._entries[row], None))
            except MissingVariable as error:
                broken.append(unasked(row, ordered.model, error))
            else:
                self._asks.append(_Ask(row, prompts.body(ordered.model, asked, ordered.sampling_params)))
        self._take(broken)

    def _ask(self) -> None:
        """Ask what waits; what is heard meanwhile may add requests, which go before those for more answers."""
        sent: dict[int, _Ask] = {}

        def bodies() -> Iterator[dict[str, Any]]:
            for number in itertools.count():
                if not self._requests_wait():
                    return
                sent[number] = self._asks.popleft()
                yield sent[number].body

        self._check()
        live, project_id = self._context.wiring.live, self._context.project_id
        with closing(asking.chat(live, project_id, bodies(), check=self._check)) as found:
            for batch in asking.in_batches(found):
                self._hear([(sent.pop(index), said) for index, said in batch])

    def _hear(self, batch: Sequence[tuple[_Ask, Said]]) -> None:
        """Store what was said, then raise what must end this claim."""
        answers: list[Answered] = []
        grades: list[Graded] = []
        trouble: UpliftError | None = None
        for ask, said in batch:
            stops = stopping(said, ask.body["model"]) if isinstance(said, UpliftError) else None
            if stops is not None:
                trouble = stops
            elif ask.criterion is None:
                answers.append(answer(ask.row, ask.body, said))
            else:
                grades.append((ask.row, ask.criterion, self._judged(ask, ask.criterion, said)))
        self._save([], grades)
        if trouble is not None:
            self._save(answers, [])
            raise trouble
        self._take(answers)

    def _judged(self, ask: _Ask, criterion: int, said: Said) -> Grade:
        if isinstance(said, UpliftError):
            return Grade(error=error_record(said))
        judge = self._graders[criterion]
        assert isinstance(judge, AskingGrader)
        return judge.grade(ask.body, said)

    def _take(self, answers: Sequence[Answered]) -> None:
        """Store answers, then grade those that are some."""
        self._save(answers, [])
        good = [one for one in answers if not one.failed]
        self._samples |= {one.row: one.sample for one in good}
        self._grade([one.row for one in good])

    def _grade(self, rows: Sequence[int]) -> None:
        """Grade at once what needs no model, and queue what does."""
        grades: list[Graded] = []
        texts: list[tuple[int, int, list[str]]] = []
        asks: list[_Ask] = []
        for row in rows:
            own = isinstance(self._ordered, Jsonl)
            seen = scope(self._entries[row], None if own else self._samples[row])
            for number, one in enumerate(self._graders):
                if (row, number) in self._done.graded:
                    continue
                try:
                    if isinstance(one, CosineGrader):
                        texts.append((row, number, one.texts(seen)))
                    elif isinstance(one, AskingGrader):
                        asks.append(_Ask(row, one.body(seen), number))
                    else:
                        grades.append((row, number, one.grade(seen)))
                except MissingVariable as error:
                    grades.append((row, number, Grade(error=error_record(error))))
            self._samples.pop(row)
        self._save([], grades)
        self._compare(texts)
        self._asks.extendleft(reversed(asks))
        self._context.check()

    def _compare(self, texts: Sequence[tuple[int, int, list[str]]]) -> None:
        """Grade by vectors, one request a pair: a text too long for the embedder costs its own grade only."""
        if not texts:
            return
        self._check()
        bodies = [{"model": self._embedder, "input": pair} for _, _, pair in texts]
        live, project_id = self._context.wiring.live, self._context.project_id
        with closing(asking.embed(live, project_id, bodies, check=self._check)) as found:
            for batch in asking.in_batches(found):
                self._hear_vectors([(texts[index], said) for index, said in batch])

    def _hear_vectors(self, batch: Sequence[tuple[tuple[int, int, list[str]], Said]]) -> None:
        grades: list[Graded] = []
        trouble: UpliftError | None = None
        for (row, number, _), said in batch:
            judge = self._graders[number]
            assert isinstance(judge, CosineGrader)
            if not isinstance(said, UpliftError):
                usage = Usage(self._embedder, said["prompt_tokens"])
                grades.append((row, number, judge.grade(unpacked(said).tolist(), usage)))
            elif (stops := stopping(said, self._embedder)) is not None:
                trouble = stops
            else:
                grades.append((row, number, Grade(error=error_record(said))))
        self._save([], grades)
        if trouble is not None:
            raise trouble

    def _save(self, answers: Sequence[Answered], grades: Sequence[Graded]) -> None:
        if not answers and not grades:
            return
        items = [self._item_row(one) for one in answers]
        rows = [self._grade_row(*one) for one in grades]
        with self._context.transaction() as session:
            repository.hold_run(session, self._id)
            used = repository.save(session, self._id, items=items, grades=rows, criteria=len(self._criteria))
            quotas.add_tokens(session, self._context.project_id, used)
        self._grades_done += len(grades) + len(self._criteria) * sum(one.failed for one in answers)
        self._show_progress()

    def _item_row(self, one: Answered) -> dict[str, Any]:
        usage = one.usage
        return {
            "run_id": self._id,
            "position": one.row,
            "id": new_id("outputitem_"),
            "project_id": self._context.project_id,
            "status": "error" if one.failed else None,
            "item": self._entries[one.row].item,
            "sample": one.sample,
        } | _usage_columns(usage)

    def _grade_row(self, row: int, criterion: int, grade: Grade) -> dict[str, Any]:
        return {
            "run_id": self._id,
            "position": row,
            "criterion": criterion,
            "project_id": self._context.project_id,
            "passed": grade.passed,
            "score": grade.score,
            "error": grade.error,
            "sample": grade.sample,
        } | _usage_columns(grade.usage)

    def _check(self) -> None:
        asking.check_job(self._context)

    def _show_progress(self) -> None:
        self._context.progress(self._grades_done, len(self._entries) * len(self._criteria), "grades")


def _usage_columns(usage: Usage | None) -> dict[str, Any]:
    if usage is None:
        return {"model": None, "prompt_tokens": 0, "completion_tokens": 0}
    return {
        "model": usage.model,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
    }


def _chunks(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(rows), _CHUNK):
        yield rows[start : start + _CHUNK]
