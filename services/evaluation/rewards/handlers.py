"""Use cases of fine-tuning's graders: check one, and have one grade an answer at once."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool

from services.evaluation.errors import EvalModelNotFound, FormulaWithoutValue, MissingVariable, TextsTooLong
from services.evaluation.evals import templates
from services.evaluation.evals.domain import Entry, Grade, Usage, scope
from services.evaluation.evals.graders import AskingGrader, CosineGrader, grader
from services.evaluation.rewards import formula
from services.evaluation.rewards.asking import GradingModels
from services.evaluation.rewards.domain import Flaw, Graded, Reward
from services.evaluation.rewards.formula import Formula
from services.evaluation.rewards.schemas import Grader, Multi, Part, RunGrader, parts
from shared.errors import UpliftError
from shared.live.vectors import unpacked

MOST_CHARACTERS = 1 << 15
"""Of all a grader's texts together, as they are and filled in. Some metrics take a time that grows with the product of
both texts, in the process that serves everybody's requests: two that fill this take METEOR up to 0.16 s of one core."""
Scope = Mapping[str, Any]


@dataclass(frozen=True)
class _Ask:
    """A grader whose score hangs on what a model says to this body, or to these texts."""

    part: Part
    judge: AskingGrader | CosineGrader
    content: Any


def check(wanted: Grader) -> Formula | None:
    """Raise the error that names its field, unless every text and the formula can be read; the formula, if any."""
    found = parts(wanted)
    _check_length(sum(max(1, len(text)) for part in found for _, text in part.criterion.templates()))
    for part in found:
        _parsed(part)
    if not isinstance(wanted, Multi):
        return None
    return formula.parse(wanted.calculate_output, {part.name for part in found}, param="grader.calculate_output")


async def run(models: GradingModels, order: RunGrader) -> Reward:
    """The reward of one answer; models are asked all at once.

    Raises for a grader that is malformed, for a model that is not here, and for what asking again can mend; all else
    that keeps a grader from its score is a flaw of the reward, which is then 0.
    """
    began = time.perf_counter()
    calculated, found = await run_in_threadpool(_begin, order)
    graded = await _all(models, found)
    flaws = [one.flaw for one in graded if one.flaw is not None]
    value = 0.0
    if not flaws:
        value, flaws = _total(calculated, graded)
    return Reward(value, graded, flaws, time.perf_counter() - began)


def _begin(order: RunGrader) -> tuple[Formula | None, list[Graded | _Ask]]:
    """Grade what needs no model. In a thread: comparing texts takes its time."""
    calculated = check(order.grader)
    seen, found = scope(Entry(order.item, {"output_text": order.model_sample}), None), parts(order.grader)
    _check_length(sum(_filled_in(template, seen) for part in found for template in _parsed(part)))
    return calculated, [_grade(part, seen) for part in found]


def _grade(part: Part, seen: Scope) -> Graded | _Ask:
    judge = grader(part.criterion)
    try:
        if isinstance(judge, CosineGrader):
            return _Ask(part, judge, judge.texts(seen))
        if isinstance(judge, AskingGrader):
            return _Ask(part, judge, judge.body(seen))
        return Graded(part.name, score=judge.grade(seen).score)
    except MissingVariable as error:
        return Graded(part.name, flaw=_missing(part, seen, error))


async def _all(models: GradingModels, found: Sequence[Graded | _Ask]) -> list[Graded]:
    """Every grader's word; an error that ends the request takes back what is still asked."""
    waiting = [asyncio.ensure_future(_heard(models, one)) for one in found]
    try:
        return await asyncio.gather(*waiting)
    finally:
        for one in waiting:
            one.cancel()


async def _heard(models: GradingModels, found: Graded | _Ask) -> Graded:
    if isinstance(found, Graded):
        return found
    name, judge, content = found.part.name, found.judge, found.content
    try:
        if isinstance(judge, CosineGrader):
            said = await models.embed(content)
            grade = judge.grade(unpacked(said).tolist(), Usage(models.embedder, said["prompt_tokens"]))
            return Graded(name, score=grade.score, usage=grade.usage)
        return _judged(name, judge.grade(content, await models.chat(content)))
    except UpliftError as error:
        return Graded(name, flaw=_unanswered(found, error))


def _judged(name: str, grade: Grade) -> Graded:
    judge = None if grade.usage is None else grade.usage.model
    flaw = None if grade.error is None else Flaw("model_grader_parse_error", f"{name}: {grade.error['message']}")
    return Graded(name, score=grade.score, flaw=flaw, usage=grade.usage, judge=judge)


def _unanswered(asked: _Ask, error: UpliftError) -> Flaw:
    """What becomes of a request that a model did not answer; raises what is no matter of the grades."""
    if error.may_pass:
        raise error
    if isinstance(asked.judge, CosineGrader):
        return Flaw("other_error", f"{asked.part.name}: {error.message}")
    if error.status == 404:
        raise EvalModelNotFound(error.message, param=f"{asked.part.where}.model") from error
    return Flaw("model_grader_server_error", f"{asked.part.name}: {error.message}")


def _missing(part: Part, seen: Scope, error: MissingVariable) -> Flaw:
    if (error.param or "").startswith("sample.output_json") and "output_json" not in seen["sample"]:
        return Flaw("sample_parse_error", f"{part.name}: {error.param}: the model sample is no JSON object or list.")
    return Flaw("invalid_variable_error", f"{part.name}: {error.message}")


def _total(calculated: Formula | None, graded: Sequence[Graded]) -> tuple[float, list[Flaw]]:
    scores = {one.name: one.score for one in graded if one.score is not None}
    if calculated is None:
        (score,) = scores.values()
        return score, []
    try:
        return calculated.value(scores), []
    except FormulaWithoutValue as error:
        return 0.0, [Flaw("formula_parse_error", f"calculate_output: {error.message}")]


def _parsed(part: Part) -> list[templates.Template]:
    return [templates.parse(text, param=f"{part.where}.{field}") for field, text in part.criterion.templates()]


def _filled_in(template: templates.Template, seen: Scope) -> int:
    """The characters of the rendered text, counted without making it; at least 1, and up to what is missing."""
    length = 0
    for piece in template.pieces:
        try:
            text = piece if isinstance(piece, str) else templates.as_text(templates.look_up(seen, piece))
        except MissingVariable:
            break
        length += len(text)
        if length > MOST_CHARACTERS:
            break
    return max(1, length)


def _check_length(characters: int) -> None:
    if characters > MOST_CHARACTERS:
        raise TextsTooLong(
            f"The grader's texts have more than {MOST_CHARACTERS} characters, as they are or with their variables "
            "filled in, which is the most that is graded at once. An eval (POST /v1/evals) takes longer ones.",
            param="grader",
        )
