"""Reading rendered rows and turning them into tokens, with the model's own chat template."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from services.training.errors import InvalidTrainingFile, NoChatTemplate, NoTrainingExamples
from services.training.lora.packing import Group, TokenExample


@dataclass(frozen=True)
class Row:
    """One example as text: chat messages as the model will see them when serving, and the answer.

    `also_learned` are places of earlier assistant messages that are learned too; `rejected` is the answer that a
    preference likes less; `line` is where the row stood in its file.
    """

    messages: tuple[dict[str, str], ...]
    answer: str
    also_learned: tuple[int, ...] = ()
    rejected: str | None = None
    line: int | None = None


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSON-lines file; InvalidTrainingFile names the line that is not one."""
    rows = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                rows.append(_row(json.loads(line)))
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidTrainingFile(f"Line {number} of {path.name} is not a training row: {error!r}.") from error
    return rows


def tokenize(tokenizer: Any, rows: list[Row], max_length: int) -> tuple[list[Group], list[int]]:
    """Token examples of the rows that fit, in order, and the lengths in tokens of those that were too long.

    A row's group is every turn that is learned, the last one last; of a preference, the preferred answer and the
    rejected one. Prompt and completion are tokenised apart, because the serving prompt ends exactly where the prompt
    ends here: a token that straddled the border would never be seen again.
    """
    if not rows:
        return [], []
    if not tokenizer.chat_template:
        raise NoChatTemplate("The base model's tokenizer has no chat template; use a model that was tuned for chat.")
    texts = [list(_render(tokenizer, row)) for row in rows]
    flat = [text for turns in texts for text in turns]
    prompts = tokenizer([prompt for prompt, _ in flat], add_special_tokens=False)["input_ids"]
    completions = tokenizer([completion for _, completion in flat], add_special_tokens=False)["input_ids"]
    examples = iter([TokenExample(tuple(p), tuple(c)) for p, c in zip(prompts, completions, strict=True)])
    groups = [tuple(next(examples) for _ in turns) for turns in texts]
    fitting = [group for group in groups if _longest(group) <= max_length]
    too_long = [length for length in map(_longest, groups) if length > max_length]
    if not fitting:
        shortest = min(too_long)
        raise NoTrainingExamples(
            f"All {len(groups)} examples are longer than max_length {max_length} (the shortest has {shortest} "
            "tokens). Raise max_length in the recipe or shorten the passages."
        )
    return fitting, too_long


def _row(record: dict[str, Any]) -> Row:
    return Row(
        messages=tuple(record["messages"]),
        answer=record["answer"],
        also_learned=tuple(record.get("also_learned", ())),
        rejected=record.get("rejected"),
        line=record.get("line"),
    )


def _longest(group: Group) -> int:
    return max(len(example) for example in group)


def _render(tokenizer: Any, row: Row) -> Iterator[tuple[str, str]]:
    """(prompt, completion) of every learned turn."""
    messages = list(row.messages)
    try:
        for place in row.also_learned:
            yield _turn(tokenizer, messages[:place], messages[place]["content"])
        yield _turn(tokenizer, messages, row.answer)
        if row.rejected is not None:
            yield _turn(tokenizer, messages, row.rejected)
    except TemplateError as error:
        where = "" if row.line is None else f"line {row.line}: "
        raise InvalidTrainingFile(f"{where}the base model's chat template refuses these messages: {error}.") from error


def _turn(tokenizer: Any, messages: list[dict[str, str]], answer: str) -> tuple[str, str]:
    """The prompt up to where the model begins to speak, and the completion up to the end-of-turn token."""
    prompt: str = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    whole: str = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": answer}], tokenize=False)
    completion = whole[len(prompt) :].rstrip() if whole.startswith(prompt) else answer
    end = tokenizer.eos_token or ""
    return prompt, completion if end and completion.endswith(end) else completion + end
