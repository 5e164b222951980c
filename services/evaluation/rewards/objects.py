"""What the grader routes give: OpenAI's objects; of every error also what happened, as `<flag>_details`."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, get_args

from services.evaluation.evals.domain import Usage
from services.evaluation.evals.samples import usage_object
from services.evaluation.rewards.domain import Flag, Flaw, Graded, Reward
from services.evaluation.rewards.schemas import Grader, Multi

_NEVER = (
    "model_grader_refusal_error",
    "python_grader_runtime_error",
    "python_grader_server_error",
    "truncated_observation_error",
    "unresponsive_reward_error",
)
"""Flags of OpenAI's for which there is no occasion here."""
_NULL = ("python_grader_runtime_error_details", "python_grader_server_error_type")


def grader_object(grader: Grader) -> dict[str, Any]:
    """A grader that was found to be good, as it was sent."""
    return grader.model_dump(exclude_unset=True)


def reward_object(grader: Grader, reward: Reward) -> dict[str, Any]:
    """The reward, and all that is known about how it came about."""
    usage = _usage_per_model(reward.graded)
    return {
        "reward": reward.value,
        "metadata": {
            "name": grader.name,
            "type": grader.type,
            "errors": _errors(reward.flaws),
            "execution_time": reward.seconds,
            "scores": {one.name: one.score for one in reward.graded if one.score is not None},
            "token_usage": sum(used["total_tokens"] for used in usage.values()) if usage else None,
            "sampled_model_name": _only_judge(reward.graded),
        },
        "sub_rewards": {one.name: one.score or 0.0 for one in reward.graded} if isinstance(grader, Multi) else {},
        "model_grader_token_usage_per_model": usage,
    }


def _errors(flaws: Sequence[Flaw]) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(_NEVER, False) | dict.fromkeys(_NULL)
    for flag in get_args(Flag):
        details = [flaw.details for flaw in flaws if flaw.flag == flag]
        found |= {flag: bool(details), f"{flag}_details": " ".join(details) or None}
    return found


def _usage_per_model(graded: Sequence[Graded]) -> dict[str, dict[str, int]]:
    used: dict[str, list[Usage]] = defaultdict(list)
    for one in graded:
        if one.usage is not None:
            used[one.usage.model].append(one.usage)
    return {
        model: usage_object(sum(one.prompt_tokens for one in each), sum(one.completion_tokens for one in each))
        for model, each in used.items()
    }


def _only_judge(graded: Sequence[Graded]) -> str | None:
    """The grading model's name; null where none was asked, or more than one."""
    judges = {one.judge for one in graded if one.judge is not None}
    return judges.pop() if len(judges) == 1 else None
