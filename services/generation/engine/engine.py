"""The engine: one thread, one model, requests that join and leave between tokens."""

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.generation.answering import Delta, Finished, FinishReason, GenerationRequest
from services.generation.engine import attention
from services.generation.engine.adapters import AdapterPool
from services.generation.engine.batch import Row, RunningBatch
from services.generation.engine.sampling import RowSampler
from services.generation.engine.stream import Stream
from services.generation.engine.text import IncrementalText
from services.generation.errors import EngineStopped, PromptTooLong
from shared.errors import UpliftError
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
        max_batch: int = 32,
        prefill_tokens: int = 4096,
        cache_tokens: int = 65_536,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        attention.register()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention.NAME,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        self._model = model.eval().requires_grad_(False)
        self._window: int = model.config.max_position_embeddings
        self._ends = _end_tokens(self._model.generation_config.eos_token_id, self._tokenizer.eos_token_id)
        self._share = share
        self._max_batch, self._prefill_tokens, self._cache_tokens = max_batch, prefill_tokens, cache_tokens
        self._adapters = AdapterPool(self._model)
        self._batch = RunningBatch(self._model, self._adapters)
        self._arrivals: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._waiting: deque[Row] = deque()
        self._tokenizing = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; requests in flight end with EngineStopped."""
        self._stopped.set()
        self._arrivals.put(None)
        self._thread.join(timeout=30)

    def submit(self, request: GenerationRequest) -> Stream:
        """Queue a request. Raises PromptTooLong at once."""
        if self._stopped.is_set():
            raise EngineStopped("The engine has stopped.")
        prompt = self._tokens(request.messages)
        if len(prompt) >= self._window:
            raise PromptTooLong(
                f"The messages have {len(prompt)} tokens; the model's window is {self._window}. Shorten them.",
                param="messages",
            )
        stream = Stream()
        self._arrivals.put(
            Row(
                stream=stream,
                prompt=prompt,
                adapter=request.adapter,
                sampler=RowSampler(request.sampling),
                text=IncrementalText(self._decode, request.sampling.stop),
                max_tokens=min(request.sampling.max_tokens, self._window - len(prompt)),
            )
        )
        return stream

    def count_tokens(self, text: str) -> int:
        """Tokens of a piece of text, no special tokens added."""
        with self._tokenizing:
            return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _tokens(self, messages: list[dict[str, str]]) -> list[int]:
        with self._tokenizing:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            found: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            return found

    def _decode(self, tokens: Sequence[int]) -> str:
        with self._tokenizing:
            text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
            return text

    def _run(self) -> None:
        """The thread: sleep until there is work, then step until there is none."""
        try:
            with torch.inference_mode():
                while not self._stopped.is_set():
                    arrival = self._arrivals.get()
                    if arrival is None:
                        break
                    self._waiting.append(arrival)
                    with self._share() as threads:
                        self._work(threads)
        finally:
            self._stopped.set()
            self._fail([*self._batch.rows, *self._waiting], EngineStopped("The engine has stopped."))

    def _work(self, threads: Callable[[], int]) -> None:
        while not self._stopped.is_set():
            self._take_arrivals()
            if not self._waiting and not self._batch.rows:
                return
            torch.set_num_threads(threads())
            try:
                self._step()
            except (RuntimeError, ValueError, IndexError) as error:
                # what one pass cannot compute must fail its own requests, not those that come after
                log.exception("forward pass failed", rows=len(self._batch.rows))
                rows = list(self._batch.rows)
                self._batch.keep([])
                self._fail(rows, EngineStopped(f"The forward pass failed: {error}"))

    def _step(self) -> None:
        newcomers = self._admit()
        if newcomers:
            self._accept(newcomers, self._batch.prefill(newcomers))
            return
        if self._batch.rows:
            rows = list(self._batch.rows)
            self._accept(rows, self._batch.decode())

    def _take_arrivals(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                arrival = self._arrivals.get_nowait()
                if arrival is not None:
                    self._waiting.append(arrival)

    def _admit(self) -> list[Row]:
        """The next prefill: in order of arrival, as many as fit, similar lengths together."""
        room = self._max_batch - len(self._batch.rows)
        candidates = [row for row in self._waiting if not self._drop_cancelled(row)][: max(room, 0)]
        self._waiting = deque(row for row in self._waiting if not row.stream.cancelled)
        chosen: list[Row] = []
        longest = 0
        for row in sorted(candidates, key=lambda row: len(row.prompt)):
            longest = max(longest, len(row.prompt))
            cells = longest * (len(chosen) + 1)
            if chosen and (cells > self._prefill_tokens or cells + self._batch.cached_tokens > self._cache_tokens):
                break
            if not self._has_adapter(row, beside=chosen):
                continue
            chosen.append(row)
        taken = set(map(id, chosen))
        self._waiting = deque(row for row in self._waiting if id(row) not in taken)
        for row in chosen:
            row.admitted = time.monotonic()
        return chosen

    def _has_adapter(self, row: Row, beside: list[Row]) -> bool:
        """Load the row's adapter; a row whose adapter cannot be served ends with the reason."""
        if row.adapter is None:
            return True
        in_use = {other.adapter_name for other in [*self._batch.rows, *beside] if other.adapter_name}
        try:
            self._adapters.ensure([row.adapter], in_use)
        except UpliftError as error:
            row.stream.put(error)
            row.stream.cancel()
            self._waiting = deque(other for other in self._waiting if other is not row)
            return False
        return True

    def _drop_cancelled(self, row: Row) -> bool:
        if row.stream.cancelled:
            self._finish(row, "cancelled")
        return row.stream.cancelled

    def _accept(self, rows: list[Row], tokens: list[int]) -> None:
        """Give each row its token; the finished leave the batch."""
        leaving: set[int] = set()
        for row, token in zip(rows, tokens, strict=True):
            row.prefilled = row.prefilled or time.monotonic()
            reason = self._give(row, token)
            if reason is not None:
                self._finish(row, reason)
                leaving.add(id(row))
        if leaving:
            self._batch.keep([row for row in self._batch.rows if id(row) not in leaving])

    def _give(self, row: Row, token: int) -> FinishReason | None:
        if row.stream.cancelled:
            return "cancelled"
        row.completion += 1
        row.last_token = token
        if token in self._ends:
            return "stop"
        text = row.text.add(token)
        if text:
            row.stream.put(Delta(text))
        if row.text.stopped:
            return "stop"
        return "length" if row.completion >= row.max_tokens else None

    def _finish(self, row: Row, reason: FinishReason) -> None:
        rest = row.text.finish()
        if rest and reason != "cancelled":
            row.stream.put(Delta(rest))
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
            )
        )

    def _fail(self, rows: list[Row], error: UpliftError) -> None:
        for row in rows:
            row.stream.put(error)


def _end_tokens(*found: int | list[int] | None) -> frozenset[int]:
    ends: set[int] = set()
    for one in found:
        if one is not None:
            ends |= set(one) if isinstance(one, list) else {one}
    return frozenset(ends)
