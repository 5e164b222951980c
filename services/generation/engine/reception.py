"""What a request becomes at the engine's door: one row for each choice, or a refusal that names the field."""

import time

from services.generation.answering import GenerationRequest, Sampling
from services.generation.engine.batch import Row
from services.generation.engine.constraint import Vocabulary
from services.generation.engine.logprobs import ShownTokens
from services.generation.engine.sampling import RowSampler
from services.generation.engine.stream import Stream
from services.generation.engine.text import IncrementalText
from services.generation.engine.tokens import ChatTokens
from services.generation.errors import PromptTooLong, TokenUnknown


class Reception:
    """Turns requests into rows; safe for many threads."""

    def __init__(self, tokens: ChatTokens, vocabulary: Vocabulary, *, window: int) -> None:
        """`window` is the most tokens that messages and answer may have together."""
        self._tokens, self._vocabulary, self._window = tokens, vocabulary, window

    def rows(self, request: GenerationRequest) -> list[Row]:
        """The request's rows, which share one stream.

        Raises PromptTooLong, MessagesRefused, TokenUnknown, SchemaRefused or UnsupportedParameter.
        """
        submitted = time.monotonic()  # laying out and tokenising the messages is the engine's work too
        sampling = request.sampling
        prompt = self._tokens.prompt(request.messages)
        max_tokens = self._room(len(prompt), request)
        self._check_tokens(sampling)
        grammar = self._vocabulary.compile(sampling.json_schema) if sampling.json_schema is not None else None
        if sampling.top_logprobs is not None:
            self._vocabulary.prepare()
        stream = Stream(request.abandoned, request.choices)
        return [
            Row(
                stream=stream,
                prompt=prompt,
                adapter=request.adapter,
                sampler=RowSampler(sampling, choice=choice, constraint=grammar.copy() if grammar else None),
                text=IncrementalText(self._tokens.decode, sampling.stop),
                max_tokens=max_tokens,
                choice=choice,
                deadline=request.deadline,
                interactive=request.interactive,
                shown=None if sampling.top_logprobs is None else ShownTokens(),
                submitted=submitted,
            )
            for choice in range(request.choices)
        ]

    def _room(self, prompt_tokens: int, request: GenerationRequest) -> int:
        """The longest answer that the window has room for, at most what was asked. Raises PromptTooLong."""
        left, wanted = self._window - prompt_tokens, request.sampling.max_tokens
        if left <= 0:
            raise PromptTooLong(
                f"The messages have {prompt_tokens} tokens; the model's window is {self._window}. Shorten them.",
                param="messages",
            )
        if wanted > left and request.max_tokens_param is not None:
            raise PromptTooLong(
                f"The model's window is {self._window} tokens; this asks for {prompt_tokens + wanted} ({prompt_tokens} "
                f"in the messages, {wanted} in the answer). Ask for at most {left}, or shorten the messages.",
                param=request.max_tokens_param,
            )
        return min(wanted, left)

    def _check_tokens(self, sampling: Sampling) -> None:
        unknown = next((token for token in sampling.logit_bias if not 0 <= token < self._vocabulary.size), None)
        if unknown is not None:
            raise TokenUnknown(
                f"The model has tokens 0 to {self._vocabulary.size - 1}; there is no token {unknown}.",
                param="logit_bias",
            )
