"""The real generation worker with an engine that loads nothing: it answers with what the model would have read.

A question that says "slowly" is answered a word every 50 ms until it is abandoned, which is noted in the home. The same
worker stands in for retrieval: the passages it finds are named after the query.
"""

import itertools
import json
import math
import time
from collections.abc import Iterator
from typing import Any

from services.generation.answering import Delta, Finished, GenerationRequest, TokenLogprob
from services.generation.errors import GenerationFailed
from services.generation.handlers import JOB_HANDLERS, LIVE_HANDLERS
from services.generation.settings import GenerationSettings
from services.generation.wiring import GenerationWiring
from shared.live import LiveContext
from shared.task_queue import make_worker_app


class Echo:
    """Each choice: the final messages and the sampling, as JSON, in pieces of ten characters; the choices take turns.

    A question that says "fails" is answered a little and then ends with an error. Asked for log-probabilities, it says
    that every letter was as likely as not.
    """

    def __init__(self, request: GenerationRequest, settings: GenerationSettings) -> None:
        self._request, self._settings = request, settings

    def __iter__(self) -> Iterator[Delta | Finished]:
        if "slowly" in self._request.messages[-1]["content"]:
            yield from self._slowly()
            return
        sampling = self._request.sampling
        read = {
            "messages": self._request.messages,
            "adapter": self._request.adapter.name if self._request.adapter else None,
            "sampling": [sampling.temperature, sampling.top_p, sampling.max_tokens, sampling.stop, sampling.seed],
            "options": {
                "frequency_penalty": sampling.frequency_penalty,
                "presence_penalty": sampling.presence_penalty,
                "logit_bias": dict(sampling.logit_bias),
                "top_logprobs": sampling.top_logprobs,
                "json_schema": sampling.json_schema,
                "max_tokens_param": self._request.max_tokens_param,
            },
            "interactive": self._request.interactive,
        }
        text = json.dumps(read)
        for start in range(0, len(text), 10):
            piece = text[start : start + 10]
            for choice in range(self._request.choices):
                yield Delta(piece, choice, self._logprobs(piece), len(text), 1)
            if "fails" in self._request.messages[-1]["content"]:
                raise GenerationFailed("The model could not go on.")
        for choice in range(self._request.choices):
            yield Finished("stop", len(text), 7, 0.0, 1.0, 2.0, choice)

    def _logprobs(self, piece: str) -> tuple[TokenLogprob, ...]:
        top = self._request.sampling.top_logprobs
        if top is None:
            return ()
        return tuple(
            TokenLogprob(letter.encode(), math.log(0.5), (TokenLogprob(letter.encode(), math.log(0.5)),) * top)
            for letter in piece
        )

    def _slowly(self) -> Iterator[Delta | Finished]:
        for count in itertools.count():
            if self._request.abandoned():
                break
            yield Delta(f"{count} ", prompt_tokens=1, completion_tokens=count + 1)
            time.sleep(0.05)
        (self._settings.home / "abandoned").touch()
        yield Finished("cancelled", 1, count, 0.0, 1.0, 2.0)

    def cancel(self) -> None:
        raise NotImplementedError("the handler says so through the request")


class EchoEngine:
    def __init__(self, settings: GenerationSettings) -> None:
        self._settings = settings

    def submit(self, request: GenerationRequest) -> Echo:
        return Echo(request, self._settings)

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def retire(self) -> None:
        pass

    def stop(self) -> None:
        pass


def search(context: LiveContext, body: dict[str, Any]) -> dict[str, Any]:
    where = "batch" if context.batch else "interactive"
    passages = [
        {"id": f"p{n}", "document_id": "d", "document": f"{n}.md", "title": where, "text": f"{body['query']} {n}"}
        for n in range(body["k"])
    ]
    return {"results": [passages]}


def make_wiring() -> GenerationWiring:
    settings = GenerationSettings()
    wiring = GenerationWiring.from_settings(settings, engine=lambda _name: EchoEngine(settings))
    assert isinstance(wiring, GenerationWiring)
    return wiring


app = make_worker_app(
    "generation-without-model",
    ["generation.interactive", "generation.batch", "retrieval.interactive", "retrieval.batch"],
    make_wiring,
    JOB_HANDLERS,
    LIVE_HANDLERS | {"retrieval.search": search},
)
