"""Between chat messages and the model's tokens; safe for many threads."""

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer

from services.generation.errors import MessagesRefused


class ChatTokens:
    """A model's tokenizer and chat template."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self._one_at_a_time = threading.Lock()
        special = [token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special]
        longest_first = sorted(special, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first))) if special else None

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    @property
    def end(self) -> int | None:
        """The token that ends a text, if the tokenizer names one."""
        found: int | None = self._tokenizer.eos_token_id
        return found

    def prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The chat template's tokens, up to where the assistant's answer begins. Raises MessagesRefused."""
        harmless = [message | {"content": self._without_special(message["content"])} for message in messages]
        with self._one_at_a_time:
            try:
                text = self._tokenizer.apply_chat_template(harmless, tokenize=False, add_generation_prompt=True)
            except TemplateError as error:
                raise MessagesRefused(
                    f"The model's chat template refuses these messages: {error}", param="messages"
                ) from error
            found: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            return found

    def count(self, text: str) -> int:
        """Tokens of a piece of text, no special tokens added."""
        with self._one_at_a_time:
            return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of some tokens, without special ones. Changes nothing in the tokenizer, so it waits for nobody."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def _without_special(self, text: str) -> str:
        """A question or a passage that spells a control token must not open or end a turn: a space takes it apart."""
        if self._special is None:
            return text
        return self._special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
