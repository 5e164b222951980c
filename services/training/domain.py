"""Rules of training jobs that need no database: model ids, hyperparameters, rows of uploaded chat files."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from services.training.errors import InvalidTrainingFile
from services.training.recipe import Recipe

_ROLES = frozenset({"system", "user", "assistant"})
_NOT_IN_IDS = re.compile(r"[^a-z0-9_-]+")


@dataclass(frozen=True)
class Example:
    """One example as stored: the conversation before the answer, and the passages that go with it."""

    messages: tuple[dict[str, str], ...]
    answer: str
    passages: tuple[Mapping[str, Any], ...] = ()


def fine_tuned_model_id(base_model: str, project_name: str, suffix: str | None, job_id: str) -> str:
    """`ft:<base>:<project>:<suffix>:<short>`, the form that OpenAI's clients know; equal jobs give equal ids."""
    project = _NOT_IN_IDS.sub("-", project_name.lower()).strip("-")
    return f"ft:{base_model}:{project}:{suffix or ''}:{job_id[-8:]}"


def with_hyperparameters(recipe: Recipe, wanted: Mapping[str, float | str | None]) -> Recipe:
    """OpenAI's three hyperparameters on top of a recipe; "auto" and None leave it as it is."""
    given = {name: value for name, value in wanted.items() if value is not None and value != "auto"}
    differences: dict[str, Any] = {}
    if "n_epochs" in given:
        differences["epochs"] = given["n_epochs"]
    if "batch_size" in given:
        differences["batch_size"] = given["batch_size"]
    if "learning_rate_multiplier" in given:
        differences["learning_rate"] = Recipe().learning_rate * float(given["learning_rate_multiplier"])
    return Recipe.from_differences(recipe.model_dump() | differences)


def hyperparameters_of(recipe: Recipe) -> dict[str, float]:
    """The recipe in OpenAI's three words."""
    return {
        "n_epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "learning_rate_multiplier": recipe.learning_rate / Recipe().learning_rate,
    }


def read_chat_lines(lines: Iterable[bytes], name: str) -> Iterator[Example]:
    """Examples of an OpenAI chat file: `messages`, the last one the assistant's. Blank lines are passed over."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _chat_example(line, f"Line {number} of {name}")


def _chat_example(line: bytes, place: str) -> Example:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InvalidTrainingFile(f"{place} is not JSON: {error}.", param="training_file") from error
    messages = record.get("messages") if isinstance(record, dict) else None
    if not isinstance(messages, list) or len(messages) < 2:
        raise InvalidTrainingFile(f"{place} needs `messages`, a list of at least two.", param="training_file")
    for message in messages:
        _check_message(message, place)
    if messages[-1]["role"] != "assistant":
        raise InvalidTrainingFile(
            f"{place} must end with the assistant's message, the answer to learn.", param="training_file"
        )
    turns = tuple({"role": message["role"], "content": message["content"]} for message in messages[:-1])
    return Example(turns, messages[-1]["content"])


def _check_message(message: Any, place: str) -> None:
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise InvalidTrainingFile(
            f"{place}: every message needs a role of {', '.join(sorted(_ROLES))}.", param="training_file"
        )
    if not isinstance(message.get("content"), str) or not message["content"].strip():
        raise InvalidTrainingFile(f"{place}: every message needs text as `content`.", param="training_file")
