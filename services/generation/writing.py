"""Between a live chat request and the engine: how to sample, and the reply that its pieces add up to."""

from collections.abc import Callable, Mapping
from typing import Any

from services.generation.answering import Delta, Finished, GenerationRequest, Sampling, TokenLogprob
from services.generation.domain import Answerer, fingerprint

_LEAST = -9999.0
"""What OpenAI says for a token of no probability: JSON has no infinity."""


def sampling(body: Mapping[str, Any], defaults: Mapping[str, Any], longest: int) -> Sampling:
    """The request's own choices, then the variant's, then ours (`longest` is our longest answer, in tokens)."""

    def chosen(name: str, otherwise: Any) -> Any:
        return next((found for found in (body.get(name), defaults.get(name)) if found is not None), otherwise)

    stop = body.get("stop") or ()
    return Sampling(
        temperature=float(chosen("temperature", 1.0)),
        top_p=float(chosen("top_p", 1.0)),
        max_tokens=int(chosen("max_tokens", longest)),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        seed=body.get("seed"),
        frequency_penalty=float(body.get("frequency_penalty") or 0.0),
        presence_penalty=float(body.get("presence_penalty") or 0.0),
        logit_bias={int(token): float(bias) for token, bias in (body.get("logit_bias") or {}).items()},
        top_logprobs=body.get("top_logprobs"),
        json_schema=body.get("json_schema"),
    )


class Written:
    """Collects a request's choices; with `emit` every piece is passed on as it comes.

    An emitted piece is `{choice, text, logprobs, finish_reason}` with the reply's `system_fingerprint` and `tokens`:
    what the request has used so far, which is what it is charged for if nobody hears its end.
    """

    def __init__(
        self, answerer: Answerer, request: GenerationRequest, *, emit: Callable[[dict[str, Any]], None] | None
    ) -> None:
        self._model, self._fingerprint = answerer.model, fingerprint(answerer)
        self._scored = request.sampling.top_logprobs is not None
        self._emit = emit
        self._texts: list[list[str]] = [[] for _ in range(request.choices)]
        self._logprobs: list[list[dict[str, Any]]] = [[] for _ in range(request.choices)]
        self._written = [0] * request.choices
        self._ends: dict[int, Finished] = {}

    def add(self, piece: Delta | Finished) -> None:
        if isinstance(piece, Finished):
            self._ends[piece.choice] = piece
            self._pass_on(piece, {"text": "", "logprobs": None, "finish_reason": piece.reason})
            return
        logprobs = [logprob_object(one) for one in piece.logprobs] if self._scored else None
        self._texts[piece.choice].append(piece.text)
        self._logprobs[piece.choice] += logprobs or []
        self._pass_on(piece, {"text": piece.text, "logprobs": logprobs, "finish_reason": None})

    def reply(self) -> dict[str, Any]:
        """The whole answer. `text` and `finish_reason` are the first choice's, for those who ask for one."""
        ends = [self._ends[choice] for choice in range(len(self._texts))]
        choices = [
            {
                "text": "".join(self._texts[choice]),
                "logprobs": self._logprobs[choice] if self._scored else None,
                "finish_reason": end.reason,
            }
            for choice, end in enumerate(ends)
        ]
        prompt, completion = ends[0].prompt_tokens, sum(end.completion_tokens for end in ends)
        return {
            "model": self._model,
            "system_fingerprint": self._fingerprint,
            "choices": choices,
            "text": choices[0]["text"],
            "finish_reason": choices[0]["finish_reason"],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                "completion_tokens_details": {
                    "reasoning_tokens": 0,
                    "audio_tokens": 0,
                    "accepted_prediction_tokens": 0,
                    "rejected_prediction_tokens": 0,
                },
            },
            "timings": {
                "queue_ms": max(end.queue_ms for end in ends),
                "prefill_ms": max(end.prefill_ms for end in ends),
                "total_ms": max(end.total_ms for end in ends),
            },
        }

    def _pass_on(self, piece: Delta | Finished, shown: dict[str, Any]) -> None:
        if self._emit is None:
            return
        self._written[piece.choice] = piece.completion_tokens
        used = piece.prompt_tokens + sum(self._written)
        self._emit(shown | {"choice": piece.choice, "system_fingerprint": self._fingerprint, "tokens": used})


def logprob_object(found: TokenLogprob) -> dict[str, Any]:
    """OpenAI's shape: a token that ends within a character is shown with its bytes escaped."""
    return _token(found) | {"top_logprobs": [_token(one) for one in found.alternatives]}


def _token(found: TokenLogprob) -> dict[str, Any]:
    return {
        "token": found.token.decode(errors="backslashreplace"),
        "logprob": max(found.logprob, _LEAST),
        "bytes": list(found.token),
    }
