"""From examples to rows as the served model will see them: the prompt laid out, passages within their budget."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer

from services.training.domain import Example
from services.training.errors import BaseModelNotFound
from shared.prompt_format import Passage, PromptSpec, render


class Renderer:
    """Lays out examples of one job. Passages are cut by the base model's own tokens, as they are when serving."""

    def __init__(self, model_dir: Path, prompt: PromptSpec, max_passage_tokens: int | None) -> None:
        self._prompt = prompt
        self._budget = max_passage_tokens
        self._tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))

    def write(self, path: Path, examples: Iterable[Example]) -> tuple[int, str]:
        """One JSON line an example; answers how many there are and the sha256 of the file."""
        digest, count = hashlib.sha256(), 0
        with path.open("wb") as lines:
            for example in examples:
                line = json.dumps(self._row(example), ensure_ascii=False, sort_keys=True).encode() + b"\n"
                digest.update(line)
                lines.write(line)
                count += 1
        return count, digest.hexdigest()

    def _row(self, example: Example) -> dict[str, object]:
        """Places of learned turns move with what the layout puts before the conversation."""
        passages = [Passage.model_validate(passage) for passage in example.passages]
        messages = render(self._prompt, example.messages, passages, fit=self._count, budget=self._budget)
        row: dict[str, object] = {"messages": messages, "answer": example.answer}
        if example.also_learned:
            turns = [place for place, message in enumerate(example.messages) if message["role"] != "system"]
            first = len(messages) - len(turns)
            row["also_learned"] = [first + turns.index(place) for place in example.also_learned]
        if example.rejected is not None:
            row["rejected"] = example.rejected
        if example.line is not None:
            row["line"] = example.line
        return row

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


def is_base_model(models_dir: Path, name: str) -> bool:
    """Whether a folder of that name lies with the models; `name` is a label, never a path."""
    return models_dir.is_dir() and any(path.name == name for path in models_dir.iterdir())


def model_folder(models_dir: Path, base_model: str) -> Path:
    """The base model's folder; BaseModelNotFound for an unknown id and for one that points out of the models."""
    there = models_dir.iterdir() if models_dir.is_dir() else ()
    folder = next((path for path in there if path.name == base_model), None)  # a label, never a path
    if folder is None or not (folder / "config.json").is_file():
        raise BaseModelNotFound(
            f"The base model {base_model!r} is not on this machine. `uplift models list` shows what is; "
            f"`uplift models pull {base_model}` fetches it.",
            param="model",
        )
    return folder
