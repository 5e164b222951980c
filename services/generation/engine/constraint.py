"""Answers that satisfy a JSON Schema: which tokens may come next, by the llguidance library (Microsoft, MIT).

The grammar allows no whitespace between JSON's tokens: a model that may indent spends its budget on that.
"""

import threading
from collections.abc import Iterable
from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer

from services.generation.errors import SchemaRefused, UnsupportedParameter


class Constraint:
    """Where one answer stands in its grammar. Not thread-safe."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def copy(self) -> "Constraint":
        """Another answer to the same grammar, at the same place."""
        return Constraint(self._matcher.deep_copy())

    def forbidden(self) -> torch.Tensor:
        """(V,) bool: the tokens that may not come next."""
        return torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8) == 0

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)

    @property
    def complete(self) -> bool:
        """Nothing may follow but the end."""
        return bool(self._matcher.is_stopped())

    @property
    def failure(self) -> str | None:
        """Why the grammar cannot be followed any further (its limits on work were reached), None as long as it can."""
        return _first_line(self._matcher.get_error()) if self._matcher.is_error() else None


class Vocabulary:
    """One tokenizer's tokens as bytes, for grammars and for those who read them; safe for many threads."""

    def __init__(self, tokenizer: Any, *, size: int, ends: Iterable[int]) -> None:
        """`size` is the number of logits, which may be more than the tokenizer's tokens."""
        self._tokenizer, self.size, self._ends = tokenizer, size, sorted(ends)
        self._making = threading.Lock()
        self._made: LLTokenizer | ValueError | None = None

    def compile(self, schema: str) -> Constraint:
        """The constraint of a JSON Schema. Raises SchemaRefused with the reason, UnsupportedParameter."""
        tokens = self._tokens()
        if isinstance(tokens, ValueError):
            raise UnsupportedParameter(
                f"This model's tokenizer cannot be held to a schema ({tokens}); leave response_format out.",
                param="response_format",
            )
        try:
            # these override what the schema's own `x-guidance` says
            grammar = LLMatcher.grammar_from_json_schema(
                schema, overrides={"whitespace_flexible": False, "lenient": False, "coerce_one_of": False}
            )
        except ValueError as error:
            raise _refused(str(error)) from error
        matcher = LLMatcher(tokens, grammar, log_level=0)
        if matcher.is_error():
            raise _refused(matcher.get_error())
        return Constraint(matcher)

    def prepare(self) -> None:
        """Have what `bytes_of` needs, so that the engine's thread never waits for it."""
        self._tokens()

    def bytes_of(self, token: int) -> bytes:
        """What the token writes; a token may end within a character."""
        tokens = self._tokens()
        if isinstance(tokens, ValueError):
            return str(self._tokenizer.decode([token])).encode()
        return tokens.decode_bytes([token])

    def _tokens(self) -> LLTokenizer | ValueError:
        """Takes a second, so the first request that needs it makes it, once; the error where the library cannot."""
        with self._making:
            if self._made is None:
                try:
                    self._made = from_tokenizer(self._tokenizer, n_vocab=self.size, eos_token=self._ends)
                except ValueError as error:
                    self._made = error
            return self._made


def _refused(reason: str) -> SchemaRefused:
    return SchemaRefused(
        f"The schema cannot be compiled: {_first_line(reason)}", param="response_format.json_schema.schema"
    )


def _first_line(text: str) -> str:
    return " ".join(text.split("<state>")[0].split())[:500]
