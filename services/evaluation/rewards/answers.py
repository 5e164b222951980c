"""What the grader routes answer, for the API's description."""

from typing import Any

from pydantic import ConfigDict

from services.evaluation.evals.answers import TokenUsage
from services.evaluation.rewards.schemas import Grader
from shared.answers import Answer

_CHECK: dict[str, Any] = {
    "type": "string_check",
    "name": "right label",
    "input": "{{sample.output_text}}",
    "operation": "ilike",
    "reference": "{{item.label}}",
}


class ValidatedGrader(Answer):
    """A grader that was found to be good, as it was sent."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"grader": _CHECK}]})

    grader: Grader


class RewardErrors(Answer):
    """Which of OpenAI's errors kept graders from a score, each with what happened; null where nothing did."""

    formula_parse_error: bool
    formula_parse_error_details: str | None
    sample_parse_error: bool
    sample_parse_error_details: str | None
    invalid_variable_error: bool
    invalid_variable_error_details: str | None
    model_grader_parse_error: bool
    model_grader_parse_error_details: str | None
    model_grader_server_error: bool
    model_grader_server_error_details: str | None
    other_error: bool
    other_error_details: str | None
    model_grader_refusal_error: bool
    """Always false, as are the four below: there is no occasion for them here."""
    python_grader_runtime_error: bool
    python_grader_runtime_error_details: None
    python_grader_server_error: bool
    python_grader_server_error_type: None
    truncated_observation_error: bool
    unresponsive_reward_error: bool


class RewardMetadata(Answer):
    """How a reward came about."""

    name: str
    type: str
    """The grader's."""
    errors: RewardErrors
    execution_time: float
    """Seconds."""
    scores: dict[str, float]
    """By grader; one that could not score is left out."""
    token_usage: int | None
    """Of all grading models together; null where none was asked."""
    sampled_model_name: str | None
    """The grading model; null where none wrote a verdict, or more than one."""


class RewardObject(Answer):
    """OpenAI's answer of a grader that ran; with any error the reward is 0."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "reward": 1.0,
                    "metadata": {
                        "name": "right label",
                        "type": "string_check",
                        "errors": {
                            "formula_parse_error": False,
                            "formula_parse_error_details": None,
                            "sample_parse_error": False,
                            "sample_parse_error_details": None,
                            "invalid_variable_error": False,
                            "invalid_variable_error_details": None,
                            "model_grader_parse_error": False,
                            "model_grader_parse_error_details": None,
                            "model_grader_server_error": False,
                            "model_grader_server_error_details": None,
                            "other_error": False,
                            "other_error_details": None,
                            "model_grader_refusal_error": False,
                            "python_grader_runtime_error": False,
                            "python_grader_runtime_error_details": None,
                            "python_grader_server_error": False,
                            "python_grader_server_error_type": None,
                            "truncated_observation_error": False,
                            "unresponsive_reward_error": False,
                        },
                        "execution_time": 0.002,
                        "scores": {"right label": 1.0},
                        "token_usage": None,
                        "sampled_model_name": None,
                    },
                    "sub_rewards": {},
                    "model_grader_token_usage_per_model": {},
                }
            ]
        }
    )

    reward: float
    metadata: RewardMetadata
    sub_rewards: dict[str, float]
    """Of a `multi` grader's graders, 0 for one that could not score."""
    model_grader_token_usage_per_model: dict[str, TokenUsage]
