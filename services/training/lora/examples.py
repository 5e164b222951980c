"""Reading rendered rows and turning them into tokens, with the model's own chat template."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.training.errors import InvalidTrainingFile, NoChatTemplate, NoTrainingExamples
from services.training.lora.packing import TokenExample


@dataclass(frozen=True)
class Row:
    """One example as text: chat messages as the model will see them when serving, and the answer."""

    messages: tuple[dict[str, str], ...]
    answer: str


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSON-lines file; InvalidTrainingFile names the line that is not one."""
    rows = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                rows.append(Row(messages=tuple(record["messages"]), answer=record["answer"]))
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidTrainingFile(f"Line {number} of {path.name} is not a training row: {error!r}.") from error
    return rows


def tokenize(tokenizer: Any, rows: list[Row], max_length: int) -> tuple[list[TokenExample], int]:
    """Token examples of the rows that fit, in order, and how many were too long.

    Prompt and completion are tokenised apart, because the serving prompt ends exactly where the prompt ends here:
    a token that straddled the border would never be seen again.
    """
    if not rows:
        return [], 0
    if not tokenizer.chat_template:
        raise NoChatTemplate("The base model's tokenizer has no chat template; use a model that was tuned for chat.")
    texts = [_render(tokenizer, row) for row in rows]
    prompts = tokenizer([prompt for prompt, _ in texts], add_special_tokens=False)["input_ids"]
    completions = tokenizer([completion for _, completion in texts], add_special_tokens=False)["input_ids"]
    examples = [TokenExample(tuple(p), tuple(c)) for p, c in zip(prompts, completions, strict=True)]
    fitting = [example for example in examples if len(example) <= max_length]
    if not fitting:
        shortest = min(len(example) for example in examples)
        raise NoTrainingExamples(
            f"All {len(examples)} examples are longer than max_length {max_length} (the shortest has {shortest} "
            "tokens). Raise max_length in the recipe or shorten the passages."
        )
    return fitting, len(examples) - len(fitting)


def _render(tokenizer: Any, row: Row) -> tuple[str, str]:
    """The prompt up to where the model begins to speak, and the completion up to the end-of-turn token."""
    messages = list(row.messages)
    prompt: str = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    whole: str = tokenizer.apply_chat_template(
        [*messages, {"role": "assistant", "content": row.answer}], tokenize=False
    )
    completion = whole[len(prompt) :].rstrip() if whole.startswith(prompt) else row.answer
    end = tokenizer.eos_token or ""
    return prompt, completion if end and completion.endswith(end) else completion + end
