"""It runs and checks the graders of fine-tuning: rewards, flags, tokens, what is refused and by which name."""

import asyncio
from typing import Any

import openai
import pytest

from tests.contract.client.conftest import CHAT

covers = pytest.mark.covers
ITEM = {"question": "What is the capital of France?", "answer": "Paris"}
SAME: Any = {
    "type": "string_check",
    "name": "same",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}
CLOSE: Any = {
    "type": "text_similarity",
    "name": "close",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "evaluation_metric": "fuzzy_match",
}
NEAR: Any = CLOSE | {"name": "near", "evaluation_metric": "cosine"}
SCORED: Any = {
    "type": "score_model",
    "name": "scored",
    "model": CHAT,
    "range": [1, 5],
    "input": [{"role": "user", "content": "Give a number from 1 to 5 for the answer {{sample.output_text}}"}],
    "sampling_params": {"temperature": 0, "seed": 3, "max_completions_tokens": 8},
}
LABELLED: Any = {
    "type": "label_model",
    "name": "labelled",
    "model": CHAT,
    "labels": ["good", "bad"],
    "passing_labels": ["good"],
    "input": [{"role": "user", "content": "Is {{sample.output_text}} good or bad?"}],
}


def multi(formula: str, **graders: Any) -> Any:
    return {"type": "multi", "name": "all", "graders": graders, "calculate_output": formula}


def flags(ran: Any) -> set[str]:
    """The names of the errors that were met, as the service spells them."""
    return {name for name, met in ran.metadata.errors.model_dump(by_alias=True).items() if met is True}


@covers("fine_tuning.alpha.graders.run")
@pytest.mark.parametrize(
    ("grader", "sample", "reward"),
    [(SAME, "Paris", 1.0), (SAME, "Rome", 0.0), (CLOSE, "Paris", 1.0), (CLOSE, "Pari", 8 / 9), (NEAR, "Paris", 1.0)],
)
def test_gives_a_reward_with_every_field(client: openai.OpenAI, grader: Any, sample: str, reward: float) -> None:
    ran = client.fine_tuning.alpha.graders.run(grader=grader, model_sample=sample, item=ITEM)
    assert ran.reward == pytest.approx(reward, abs=1e-5)
    assert ran.metadata.scores == {grader["name"]: ran.reward}
    assert (ran.metadata.name, ran.metadata.type) == (grader["name"], grader["type"])
    assert ran.metadata.execution_time > 0
    assert ran.metadata.sampled_model_name is None
    assert ran.sub_rewards == {}
    assert flags(ran) == set()
    errors = ran.metadata.errors
    assert errors.formula_parse_error is errors.other_error is errors.python_grader_runtime_error is False
    assert errors.api_model_grader_refusal_error is errors.unresponsive_reward_error is False
    assert errors.truncated_observation_error is errors.python_grader_server_error is False


@covers("fine_tuning.alpha.graders.run", "evals.create")
@pytest.mark.parametrize(
    ("metric", "sample", "reward"),
    [("exact_match", "paris.", 1.0), ("token_f1", "Paris it is", 0.5), ("chrf", "Paris", 1.0)],
)
def test_compares_by_our_own_metrics_too(client: openai.OpenAI, metric: Any, sample: str, reward: float) -> None:
    grader = CLOSE | {"evaluation_metric": metric}
    ran = client.fine_tuning.alpha.graders.run(grader=grader, model_sample=sample, item=ITEM)
    assert ran.reward == pytest.approx(reward)
    made = client.evals.create(
        data_source_config={"type": "custom", "item_schema": {"type": "object"}, "include_sample_schema": True},
        testing_criteria=[grader | {"pass_threshold": 0.5}],
    )
    read: Any = made.testing_criteria[0]  # of whichever type: the client's own lists OpenAI's metrics alone
    assert (read.type, read.evaluation_metric) == ("text_similarity", metric)


@covers("fine_tuning.alpha.graders.run")
def test_lets_a_model_give_the_reward_and_counts_its_tokens(client: openai.OpenAI) -> None:
    ran = client.fine_tuning.alpha.graders.run(grader=SCORED, model_sample="Paris")
    assert flags(ran) == set()  # the model is held to the range, so that any answer of it is a score
    assert 1 <= ran.reward <= 5
    assert ran.metadata.sampled_model_name == CHAT
    used: Any = ran.api_model_grader_token_usage_per_model[CHAT]
    assert used["prompt_tokens"] > 0
    assert used["completion_tokens"] > 0
    assert ran.metadata.token_usage == used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]


@covers("fine_tuning.alpha.graders.run")
def test_calculates_a_reward_from_several_graders(client: openai.OpenAI) -> None:
    grader = multi("0.5 * same + min(close, 0.5) + labelled ^ 0", same=SAME, close=CLOSE, labelled=LABELLED)
    ran = client.fine_tuning.alpha.graders.run(grader=grader, model_sample="Paris", item=ITEM)
    assert flags(ran) == set()
    assert ran.reward == pytest.approx(2.0)
    assert ran.sub_rewards["same"] == ran.sub_rewards["close"] == 1.0
    assert ran.sub_rewards["labelled"] in (0.0, 1.0)
    assert ran.metadata.type == "multi"
    alone: Any = {"type": "multi", "name": "alone", "graders": SAME, "calculate_output": "3 * same"}  # as it is typed
    assert client.fine_tuning.alpha.graders.run(grader=alone, model_sample="Paris", item=ITEM).reward == 3.0


@covers("fine_tuning.alpha.graders.run")
@pytest.mark.parametrize(
    ("grader", "sample", "flag"),
    [
        (SAME | {"reference": "{{item.unknown}}"}, "Paris", "invalid_variable_error"),
        (SAME | {"input": "{{sample.output_json.answer}}"}, "no JSON", "sample_parse_error"),
        (multi("1 / same", same=SAME), "Rome", "formula_parse_error"),
        (multi("log(same)", same=SAME), "Rome", "formula_parse_error"),
    ],
)
def test_says_by_a_flag_why_there_is_no_reward(client: openai.OpenAI, grader: Any, sample: str, flag: str) -> None:
    ran = client.fine_tuning.alpha.graders.run(grader=grader, model_sample=sample, item=ITEM)
    assert (ran.reward, flags(ran)) == (0.0, {flag})


@covers("fine_tuning.alpha.graders.run")
def test_reads_a_sample_that_is_json(client: openai.OpenAI) -> None:
    grader: Any = SAME | {"input": "{{sample.output_json.answer}}"}
    ran = client.fine_tuning.alpha.graders.run(grader=grader, model_sample='{"answer": "Paris"}', item=ITEM)
    assert ran.reward == 1.0


@covers("fine_tuning.alpha.graders.validate")
@pytest.mark.parametrize("grader", [SAME, CLOSE, SCORED, multi("same + close", same=SAME, close=CLOSE)])
def test_gives_a_good_grader_back(client: openai.OpenAI, grader: Any) -> None:
    found = client.fine_tuning.alpha.graders.validate(grader=grader).grader
    assert found is not None
    assert found.model_dump(exclude_unset=True) == grader | (
        {"pass_threshold": 3.0} if grader is SCORED else {}  # what applies where none is given
    )


@covers("fine_tuning.alpha.graders.validate", "fine_tuning.alpha.graders.run")
@pytest.mark.parametrize(
    ("grader", "param"),
    [
        ({"type": "string_check", "name": "x"}, "grader.input"),
        (SAME | {"operation": "near"}, "grader.operation"),
        (SAME | {"input": "{{1 + 1}}"}, "grader.input"),
        (SAME | {"colour": "red"}, "grader.colour"),
        (multi("same + other", same=SAME), "grader.calculate_output"),
        (multi("__import__('os')", same=SAME), "grader.calculate_output"),
        (multi("same", same=SAME | {"operation": "near"}), "grader.graders.same.operation"),
        ({"type": "vibes"}, "grader"),
    ],
)
def test_refuses_a_bad_grader_by_name(client: openai.OpenAI, grader: Any, param: str) -> None:
    graders = client.fine_tuning.alpha.graders
    for call in (
        lambda: graders.validate(grader=grader),
        lambda: graders.run(grader=grader, model_sample="Paris", item=ITEM),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            call()
        assert refused.value.param == param


@covers("fine_tuning.alpha.graders.validate", "fine_tuning.alpha.graders.run")
def test_refuses_a_grader_that_would_run_code(client: openai.OpenAI) -> None:
    python: Any = {"type": "python", "name": "code", "source": "def grade(sample, item):\n    return 1.0\n"}
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.alpha.graders.validate(grader=python)
    assert refused.value.param == "grader.type"
    assert "sandbox" in refused.value.message
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.alpha.graders.run(grader=multi("code", code=python), model_sample="Paris")
    assert refused.value.param == "grader.graders.code.type"


@covers("fine_tuning.alpha.graders.run")
def test_knows_nothing_of_a_grading_model_that_is_not_here(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.fine_tuning.alpha.graders.run(grader=SCORED | {"model": "unknown"}, model_sample="Paris")
    assert (refused.value.param, refused.value.code) == ("grader.model", "model_not_found")


@covers("fine_tuning.alpha.graders.run")
def test_answers_the_asynchronous_client_too(async_client: openai.AsyncOpenAI) -> None:
    async def reward() -> float:
        async with async_client as opened:
            graders = opened.fine_tuning.alpha.graders
            assert (await graders.validate(grader=SAME)).grader is not None
            return (await graders.run(grader=SAME, model_sample="Paris", item=ITEM)).reward

    assert asyncio.run(reward()) == 1.0
