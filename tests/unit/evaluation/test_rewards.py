"""Rewards of fine-tuning's graders: scores, flags, what is refused and by which name; models are stood in for."""

import asyncio
from typing import Any, get_args

import numpy as np
import pytest
from openai.types.fine_tuning.alpha import GraderRunResponse
from pydantic import ValidationError

from services.evaluation.errors import EvalModelNotFound, InvalidFormula, InvalidTemplate, TextsTooLong
from services.evaluation.rewards import handlers
from services.evaluation.rewards.domain import Flag
from services.evaluation.rewards.objects import grader_object, reward_object
from services.evaluation.rewards.schemas import RunGrader
from shared.errors import InvalidInput, NotFound, TooManyRequests, Unavailable, UpliftError
from shared.live.vectors import packed

BOTH = {"input": "{{sample.output_text}}", "reference": "{{item.answer}}"}
SAME = {"type": "string_check", "name": "same", "operation": "eq", **BOTH}
CLOSE = {"type": "text_similarity", "name": "close", "evaluation_metric": "fuzzy_match", **BOTH}
COSINE = CLOSE | {"name": "near", "evaluation_metric": "cosine"}
JUDGED = [{"role": "user", "content": "{{sample.output_text}}"}]
SCORED = {"type": "score_model", "name": "scored", "model": "judge", "input": JUDGED, "range": [0, 10]}
LABELLED = {"type": "label_model", "name": "labelled", "model": "judge", "input": JUDGED} | {
    "labels": ["good", "bad"],
    "passing_labels": ["good"],
}


class Models:
    """Stands in for GradingModels: says what it is told to, an error by raising it."""

    embedder = "embedder"

    def __init__(self, *answers: str | UpliftError) -> None:
        self._answers = list(answers)
        self.asked: list[Any] = []

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(body)
        answer = self._answers.pop(0)
        if isinstance(answer, UpliftError):
            raise answer
        used = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
        return {"model": body["model"], "text": answer, "finish_reason": "stop", "usage": used}

    async def embed(self, texts: list[str]) -> dict[str, Any]:
        self.asked.append(texts)
        if self._answers and isinstance(self._answers[0], UpliftError):
            raise self._answers[0]
        return packed(np.asarray([[1.0, 0.0], [0.6, 0.8]])) | {"prompt_tokens": 4}


def multi(formula: str, *graders: dict[str, Any]) -> dict[str, Any]:
    named = {one["name"]: one for one in graders}
    return {"type": "multi", "name": "all", "graders": named, "calculate_output": formula}


def graded(
    grader: dict[str, Any], models: Models | None = None, *, sample: str = "Paris", item: Any = None
) -> dict[str, Any]:
    """The answer to an order, as the client is sent it; OpenAI's client finds all that it knows of in it."""
    given = {"answer": "Paris"} if item is None else item
    order = RunGrader.model_validate({"grader": grader, "model_sample": sample, "item": given})
    found = reward_object(order.grader, asyncio.run(handlers.run(models or Models(), order)))  # type: ignore[arg-type]
    GraderRunResponse.model_validate(found)
    return found


def flags(found: dict[str, Any]) -> set[str]:
    return {name for name, raised in found["metadata"]["errors"].items() if raised is True}


def checked(grader: dict[str, Any]) -> dict[str, Any]:
    order = RunGrader.model_validate({"grader": grader, "model_sample": ""})
    handlers.check(order.grader)
    return grader_object(order.grader)


@pytest.mark.parametrize(
    ("grader", "sample", "reward"),
    [
        (SAME, "Paris", 1.0),
        (SAME, "Rome", 0.0),
        (CLOSE, "Pari", 8 / 9),
        (CLOSE | {"pass_threshold": 1}, "Pari", 8 / 9),  # the score, whatever would pass
        (COSINE, "Paris", 0.6),
        (CLOSE | {"evaluation_metric": "exact_match"}, "paris.", 1.0),
        (CLOSE | {"evaluation_metric": "token_f1"}, "Paris it is", 0.5),
        (CLOSE | {"evaluation_metric": "chrf"}, "Paris", 1.0),
    ],
)
def test_the_reward_is_the_graders_score(grader: dict[str, Any], sample: str, reward: float) -> None:
    found = graded(grader, sample=sample)
    assert found["reward"] == pytest.approx(reward)
    assert found["metadata"]["scores"] == {grader["name"]: found["reward"]}
    assert (found["metadata"]["name"], found["metadata"]["type"]) == (grader["name"], grader["type"])
    assert found["metadata"]["execution_time"] > 0
    assert found["sub_rewards"] == {}
    assert flags(found) == set()


def test_asks_nobody_where_no_model_grades() -> None:
    models = Models()
    found = graded(SAME, models)
    assert models.asked == []
    assert found["metadata"]["token_usage"] is None
    assert found["metadata"]["sampled_model_name"] is None
    assert found["model_grader_token_usage_per_model"] == {}


@pytest.mark.parametrize(
    ("grader", "said", "reward"), [(SCORED, "7", 7.0), (LABELLED, '"good"', 1.0), (LABELLED, '"bad"', 0.0)]
)
def test_a_model_grades_and_its_tokens_are_told(grader: dict[str, Any], said: str, reward: float) -> None:
    models = Models(said)
    found = graded(grader, models)
    assert (found["reward"], flags(found)) == (reward, set())
    assert models.asked[0]["messages"][-1]["content"] == "Paris"
    assert (found["metadata"]["token_usage"], found["metadata"]["sampled_model_name"]) == (9, "judge")
    assert found["model_grader_token_usage_per_model"] == {
        "judge": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9, "cached_tokens": 0}
    }


def test_a_multi_grader_calculates_with_the_scores_of_its_graders() -> None:
    grader = multi("0.5 * same + scored / 10 + near + max(same, labelled)", SAME, SCORED, LABELLED, COSINE)
    found = graded(grader, Models("8", "bad"))
    assert found["reward"] == pytest.approx(0.5 + 0.8 + 0.6 + 1)
    assert found["sub_rewards"] == {"same": 1.0, "scored": 8.0, "labelled": 0.0, "near": pytest.approx(0.6)}
    assert found["metadata"]["scores"] == found["sub_rewards"]
    assert (found["metadata"]["name"], found["metadata"]["type"]) == ("all", "multi")
    assert found["metadata"]["token_usage"] == 9 + 9 + 4
    assert found["model_grader_token_usage_per_model"]["judge"]["total_tokens"] == 18
    assert found["model_grader_token_usage_per_model"]["embedder"]["total_tokens"] == 4


@pytest.mark.parametrize("graders", [SAME, [SAME, CLOSE], {"same": CLOSE}])
def test_takes_graders_in_each_of_the_forms_that_openai_documents(graders: Any) -> None:
    grader = {"type": "multi", "name": "m", "graders": graders, "calculate_output": "2 * same"}
    assert graded(grader)["reward"] == 2
    assert checked(grader) == grader


@pytest.mark.parametrize(
    ("grader", "models", "order", "flag", "says"),
    [
        (SAME, Models(), {"item": {}}, "invalid_variable_error", "same: item.answer: there is no 'answer' in item."),
        (CLOSE, Models(), {"item": {"a": 1}}, "invalid_variable_error", "close: item.answer"),
        (COSINE, Models(), {"item": {}}, "invalid_variable_error", "near: item.answer"),
        (
            SCORED | {"input": [{"role": "user", "content": "{{item.no}}"}]},
            Models(),
            {},
            "invalid_variable_error",
            "scored: item.no",
        ),
        (SAME | {"input": "{{sample.output_json.a}}"}, Models(), {}, "sample_parse_error", "no JSON object or list"),
        (
            SAME | {"input": "{{sample.output_json.a}}"},
            Models(),
            {"sample": '{"b": 1}'},
            "invalid_variable_error",
            "there is no 'a' in sample.output_json",
        ),
        (SCORED, Models("eleven of ten"), {}, "model_grader_parse_error", "scored: The grading model said no number"),
        (SCORED, Models("11"), {}, "model_grader_parse_error", "not within 0 to 10"),
        (LABELLED, Models("ugly"), {}, "model_grader_parse_error", "labelled: The grading model said none of"),
        (SCORED, Models(InvalidInput("Too long.")), {}, "model_grader_server_error", "scored: Too long."),
        (COSINE, Models(InvalidInput("Too long.")), {}, "other_error", "near: Too long."),
        (
            multi("1 / (same - same)", SAME),
            Models(),
            {},
            "formula_parse_error",
            "calculate_output: '1 / (same - same)'",
        ),
        (multi("log(same - 1)", SAME), Models(), {}, "formula_parse_error", "'log(same - 1)'"),
    ],
)
def test_what_keeps_a_grader_from_its_score_is_a_flag_with_its_reason_and_no_reward(
    grader: dict[str, Any], models: Models, order: dict[str, Any], flag: str, says: str
) -> None:
    found = graded(grader, models, **order)
    assert (found["reward"], flags(found)) == (0.0, {flag})
    assert says in found["metadata"]["errors"][f"{flag}_details"]


def test_every_flag_is_always_there() -> None:
    errors = graded(SAME)["metadata"]["errors"]
    assert {name: value for name, value in errors.items() if value is not None} == dict.fromkeys(
        {
            *get_args(Flag),
            "model_grader_refusal_error",
            "python_grader_runtime_error",
            "python_grader_server_error",
            "truncated_observation_error",
            "unresponsive_reward_error",
        },
        False,
    )


def test_one_failing_grader_of_several_takes_the_whole_reward_and_shows_the_others() -> None:
    found = graded(multi("same + scored", SAME, SCORED), Models("no idea"))
    assert (found["reward"], flags(found)) == (0.0, {"model_grader_parse_error"})
    assert found["sub_rewards"] == {"same": 1.0, "scored": 0.0}
    assert found["metadata"]["scores"] == {"same": 1.0}
    assert found["metadata"]["token_usage"] == 9  # what was used is told, whatever came of it


def test_each_failing_grader_has_its_reason() -> None:
    other = SAME | {"name": "other", "reference": "{{item.b}}"}
    found = graded(multi("same + other", SAME, other), item={"x": 1})
    details = found["metadata"]["errors"]["invalid_variable_error_details"]
    assert "same: item.answer" in details
    assert "other: item.b" in details


@pytest.mark.parametrize("grader", [SCORED, COSINE])
@pytest.mark.parametrize("error", [TooManyRequests("The queue is full."), Unavailable("Redis is away.")])
def test_what_asking_again_can_mend_is_no_matter_of_the_grades(grader: dict[str, Any], error: UpliftError) -> None:
    with pytest.raises(type(error)):
        graded(grader, Models(error))


@pytest.mark.parametrize(
    ("grader", "param"),
    [(SCORED, "grader.model"), (multi("same + scored", SAME, SCORED), "grader.graders.scored.model")],
)
def test_a_model_that_is_not_here_is_named_by_its_field(grader: dict[str, Any], param: str) -> None:
    with pytest.raises(EvalModelNotFound) as refused:
        graded(grader, Models(NotFound("There is no model 'judge' here.")))
    assert (refused.value.status, refused.value.param) == (404, param)


def test_a_refused_request_takes_back_what_is_still_asked() -> None:
    class Hanging(Models):
        gone = 0

        async def embed(self, _texts: list[str]) -> dict[str, Any]:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.gone += 1
                raise
            return {}

    async def refused(models: Hanging) -> int:
        order = RunGrader.model_validate(
            {"grader": multi("near + scored", COSINE, SCORED), "model_sample": "Paris", "item": {"answer": "Paris"}}
        )
        with pytest.raises(TooManyRequests):
            await handlers.run(models, order)  # type: ignore[arg-type]
        await asyncio.sleep(0)
        return models.gone

    assert asyncio.run(refused(Hanging(TooManyRequests("The queue is full.")))) == 1


@pytest.mark.parametrize(
    ("grader", "error", "param"),
    [
        (SAME | {"reference": "{{1 + 1}}"}, InvalidTemplate, "grader.reference"),
        (SCORED | {"input": [{"role": "user", "content": "{{item"}]}, InvalidTemplate, "grader.input.0.content"),
        (multi("same", SAME | {"input": "{{x}}"}), InvalidTemplate, "grader.graders.same.input"),
        (multi("same + other", SAME), InvalidFormula, "grader.calculate_output"),
        (multi("same +", SAME), InvalidFormula, "grader.calculate_output"),
        (multi("__import__('os')", SAME), InvalidFormula, "grader.calculate_output"),
        (SAME | {"input": "x" * handlers.MOST_CHARACTERS}, TextsTooLong, "grader"),
    ],
)
def test_a_grader_that_could_score_no_answer_is_refused_wherever_it_comes(
    grader: dict[str, Any], error: type[UpliftError], param: str
) -> None:
    for refuse in (checked, graded):
        with pytest.raises(error) as refused:
            refuse(grader)
        assert refused.value.param == param


@pytest.mark.parametrize("graders", [[SAME, SAME], [], {}, {f"g{number}": SAME for number in range(21)}, 5])
def test_graders_are_few_and_called_by_names_of_their_own(graders: Any) -> None:
    with pytest.raises(ValidationError):
        checked({"type": "multi", "name": "m", "graders": graders, "calculate_output": "1"})


def test_texts_that_variables_make_too_long_are_refused_before_they_are_made() -> None:
    twice = SAME | {"input": "{{item.answer}}{{item.answer}}"}
    half = "x" * (handlers.MOST_CHARACTERS // 3)
    assert graded(twice, sample="", item={"answer": half})["reward"] == 0.0
    with pytest.raises(TextsTooLong):
        graded(SAME | {"input": "{{item.answer}}" * 2000}, item={"answer": "x" * 1_000_000})
    with pytest.raises(TextsTooLong):  # one text is not made, because the other lacks a variable
        graded(
            CLOSE | {"input": "{{item.no}}", "reference": "{{item.answer}}" * 2000}, item={"answer": "x" * 1_000_000}
        )


def test_a_good_grader_comes_back_as_it_was_sent() -> None:
    for grader in (SAME, CLOSE, COSINE, LABELLED, multi("same + close", SAME, CLOSE)):
        assert checked(grader) == grader
    assert SCORED.items() <= checked(SCORED).items()
