"""The engine: one thread, one model, requests that join and leave between tokens."""

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from services.generation.answering import Delta, Finished, FinishReason, GenerationRequest, TokenLogprob
from services.generation.engine import attention
from services.generation.engine.adapters import AdapterPool
from services.generation.engine.admission import Limits, next_prefill
from services.generation.engine.batch import Row, RunningBatch
from services.generation.engine.constraint import Vocabulary
from services.generation.engine.reception import Reception
from services.generation.engine.sampling import Chosen, Ranked
from services.generation.engine.stream import Stream
from services.generation.engine.tokens import ChatTokens
from services.generation.errors import EngineStopped, GenerationFailed
from shared.errors import DeadlineExceeded, UpliftError
from shared.telemetry import logger

log = logger(__name__)
Share = Callable[[], contextlib.AbstractContextManager[Callable[[], int]]]
"""Opens while there is work; gives a function that says how many threads to compute with now."""


class Engine:
    """Serves one base model from a local folder. Safe for many threads; `start` before `submit`."""

    def __init__(
        self,
        folder: Path,
        *,
        share: Share,
        died: Callable[[], None] | None = None,
        max_batch: int = 32,
        prefill_tokens: int = 4096,
        cache_tokens: int = 65_536,
        dtype: torch.dtype | None = None,
    ) -> None:
        """`died` hears, on the engine's thread, of an end that nobody asked for; `dtype` None takes what is fast here.

        `prefill_tokens` bounds what is read at once, padding included; `cache_tokens` what all rows together may grow
        to (a token of SmolLM2-135M takes 23 KB).
        """
        attention.register()
        self._tokens = ChatTokens(folder)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype or _fast_dtype(),
            attn_implementation=attention.NAME,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        self._model = model.eval().requires_grad_(False)
        self._ends = _end_tokens(self._model.generation_config.eos_token_id, self._tokens.end)
        self._vocabulary = Vocabulary(
            self._tokens.tokenizer, size=model.get_output_embeddings().weight.shape[0], ends=self._ends
        )
        self._reception = Reception(self._tokens, self._vocabulary, window=model.config.max_position_embeddings)
        self._share, self._died = share, died
        self._limits = Limits(max_batch, prefill_tokens, cache_tokens)
        self._adapters = AdapterPool(self._model)
        self._batch = RunningBatch(self._model, self._adapters)
        self._door = threading.Lock()
        self._closed = False  # no more requests
        self._arrivals: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._waiting: deque[Row] = deque()
        self._retiring = False  # end once nothing is in flight
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def retire(self) -> None:
        """Take no more requests and end once those in flight are answered; does not wait for that."""
        self._close()

    def stop(self) -> None:
        """End the thread; requests in flight end with EngineStopped."""
        self._stopped.set()
        self._close()
        self._thread.join(timeout=30)

    def submit(self, request: GenerationRequest) -> Stream:
        """Queue a request. Raises what is wrong with it, or EngineStopped, at once."""
        rows = self._reception.rows(request)
        with self._door:
            if self._closed:
                raise EngineStopped("The engine takes no more requests; try again.")
            for row in rows:
                self._arrivals.put(row)
        return rows[0].stream

    def count_tokens(self, text: str) -> int:
        """Tokens of a piece of text, no special tokens added."""
        return self._tokens.count(text)

    def _close(self) -> None:
        with self._door:
            self._closed = True
            self._arrivals.put(None)

    def _run(self) -> None:
        """The thread. An error that a step does not expect ends it, and with it every request: loudly."""
        try:
            with torch.inference_mode():
                self._serve()
        except BaseException:
            log.critical("the engine's thread died", exc_info=True)
            if self._died is not None:
                self._died()
            raise
        finally:
            self._close()
            self._take_arrivals()
            self._fail([*self._batch.rows, *self._waiting], EngineStopped("The engine has stopped; try again."))

    def _serve(self) -> None:
        """Sleep until there is work, then step until there is none."""
        while not (self._retiring or self._stopped.is_set()):
            self._arrive(self._arrivals.get())
            with self._share() as threads:
                while not self._stopped.is_set():
                    self._take_arrivals()
                    if not self._waiting and not self._batch.rows:
                        break
                    torch.set_num_threads(threads())
                    self._step()

    def _take_arrivals(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._arrive(self._arrivals.get_nowait())

    def _arrive(self, arrival: Row | None) -> None:
        if arrival is None:
            self._retiring = True
        else:
            self._waiting.append(arrival)

    def _step(self) -> None:
        """Read newcomers, or else write one token for everyone. What cannot be computed fails its own rows only."""
        newcomers = self._admit()
        rows = newcomers or list(self._batch.rows)
        if not rows:
            return
        try:
            tokens = self._batch.prefill(newcomers) if newcomers else self._batch.decode()
        except (RuntimeError, ValueError, IndexError) as error:
            log.exception("forward pass failed", rows=len(rows), reading=bool(newcomers))
            if not newcomers:
                self._batch.keep([])
            self._fail(rows, GenerationFailed(f"The model could not compute an answer: {error}"))
            return
        self._accept(rows, tokens)

    def _admit(self) -> list[Row]:
        """Take the next prefill out of those who wait; who has given up or cannot be served leaves."""
        self._waiting = deque(row for row in self._waiting if not self._gave_up(row))
        proposed = next_prefill(self._waiting, self._batch.rows, self._limits)
        in_use = {row.adapter_name for row in [*self._batch.rows, *proposed] if row.adapter_name}
        chosen = [row for row in proposed if self._has_adapter(row, in_use)]
        self._waiting = _without(self._waiting, chosen)
        for row in chosen:
            row.admitted = time.monotonic()
        return chosen

    def _gave_up(self, row: Row) -> bool:
        """End a row whose client has gone or whose time is up."""
        if row.stream.cancelled:
            self._finish(row, "cancelled")
            return True
        if row.deadline is not None and time.monotonic() >= row.deadline:
            row.stream.put(
                DeadlineExceeded("The answer was not complete when the deadline passed. Ask for fewer tokens.")
            )
            return True
        return False

    def _has_adapter(self, row: Row, in_use: set[str]) -> bool:
        """Load the row's adapter; a row whose adapter cannot be served ends with the reason."""
        if row.adapter is None:
            return True
        try:
            self._adapters.ensure([row.adapter], in_use)
        except UpliftError as error:
            row.stream.put(error)
            self._waiting = _without(self._waiting, [row])
            return False
        return True

    def _accept(self, rows: list[Row], tokens: list[Chosen]) -> None:
        """Give each row its token; the finished leave the batch."""
        leaving = []
        for row, chosen in zip(rows, tokens, strict=True):
            row.prefilled = row.prefilled or time.monotonic()
            if self._gave_up(row) or self._lost_its_grammar(row):
                leaving.append(row)
                continue
            reason = self._give(row, chosen)
            if reason is not None:
                self._finish(row, reason)
                leaving.append(row)
        if leaving:
            self._batch.keep(list(_without(self._batch.rows, leaving)))

    def _lost_its_grammar(self, row: Row) -> bool:
        """End a row whose schema takes more work than its limits allow."""
        failure = row.sampler.constraint.failure if row.sampler.constraint else None
        if failure is not None:
            row.stream.put(GenerationFailed(f"The answer could not be held to its schema any further: {failure}"))
        return failure is not None

    def _give(self, row: Row, chosen: Chosen) -> FinishReason | None:
        row.completion += 1
        row.last_token = chosen.token
        if chosen.token in self._ends:
            return "stop"
        if row.shown is not None and chosen.ranked is not None:
            row.shown.add(self._logprob(chosen.token, chosen.ranked))
        self._show(row, row.text.add(chosen.token))
        if row.text.stopped or (row.sampler.constraint is not None and row.sampler.constraint.complete):
            return "stop"
        return "length" if row.completion >= row.max_tokens else None

    def _show(self, row: Row, text: str, *, last: bool = False) -> None:
        logprobs = row.shown.show(text) if row.shown is not None else ()
        if last and row.shown is not None and not row.text.stopped:
            logprobs += row.shown.rest()
        if text or logprobs:
            row.stream.put(Delta(text, row.choice, logprobs, len(row.prompt), row.completion))

    def _logprob(self, token: int, ranked: Ranked) -> TokenLogprob:
        alternatives = tuple(TokenLogprob(self._vocabulary.bytes_of(one), value) for one, value in ranked.likeliest)
        return TokenLogprob(self._vocabulary.bytes_of(token), ranked.logprob, alternatives)

    def _finish(self, row: Row, reason: FinishReason) -> None:
        if reason != "cancelled":
            self._show(row, row.text.finish(), last=True)
        now = time.monotonic()
        admitted, prefilled = row.admitted or now, row.prefilled or now
        row.stream.put(
            Finished(
                reason=reason,
                prompt_tokens=len(row.prompt),
                completion_tokens=row.completion,
                queue_ms=1000 * (admitted - row.submitted),
                prefill_ms=1000 * (prefilled - admitted),
                total_ms=1000 * (now - row.submitted),
                choice=row.choice,
            )
        )

    def _fail(self, rows: Iterable[Row], error: UpliftError) -> None:
        for row in rows:
            row.stream.put(error)


def _without(rows: Iterable[Row], leaving: Sequence[Row]) -> deque[Row]:
    gone = set(map(id, leaving))
    return deque(row for row in rows if id(row) not in gone)


def _end_tokens(*found: int | list[int] | None) -> frozenset[int]:
    ends: set[int] = set()
    for one in found:
        if one is not None:
            ends |= set(one) if isinstance(one, list) else {one}
    return frozenset(ends)


def _fast_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies it natively; emulated, it is slower than float32."""
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32
