"""What both graders that ask a model share: the request."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from services.evaluation.evals.prompts import SEED, MessageTemplates
from services.evaluation.evals.schemas import JudgeSampling, LabelModel, ScoreModel


class Judge:
    """One grading model with its messages and sampling.

    `most_tokens` bounds a verdict where the client does not: a model that is held to a schema can write decimals
    for ever.
    """

    def __init__(
        self, criterion: ScoreModel | LabelModel, sampling: JudgeSampling, order: str, *, most_tokens: int
    ) -> None:
        self._model = criterion.model
        self._messages = MessageTemplates(criterion.input)
        self._order = order
        self._sampling = {
            "temperature": 0.0 if sampling.temperature is None else sampling.temperature,
            "top_p": 1.0 if sampling.top_p is None else sampling.top_p,
            "max_tokens": sampling.max_completions_tokens or most_tokens,
            "seed": SEED if sampling.seed is None else sampling.seed,
        }

    def body(self, scope: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
        """The live request; the answer is held to the JSON Schema. Raises MissingVariable."""
        messages = with_order(self._messages.render(scope), self._order)
        return {
            "model": self._model,
            "messages": messages,
            **self._sampling,
            "json_schema": json.dumps(schema),
            "stream": False,
        }


def with_order(messages: Sequence[Mapping[str, str]], order: str) -> list[dict[str, str]]:
    """The messages with one more sentence for the model, in the system message: many models know one at most."""
    first, rest = dict(messages[0]), [dict(message) for message in messages[1:]]
    if first["role"] == "system":
        return [first | {"content": f"{first['content']}\n\n{order}"}, *rest]
    return [{"role": "system", "content": order}, first, *rest]
