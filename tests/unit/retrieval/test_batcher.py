"""One model thread for many callers."""

import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from services.retrieval.batcher import BatchingEmbedder
from services.retrieval.embedder import Vectors


class SlowEmbedder:
    """An honest small embedder: notes its batches and takes its time."""

    name, dimensions, most_tokens = "slow", 2, 100

    def __init__(self, seconds: float = 0.02) -> None:
        self.batches: list[list[str]] = []
        self._seconds = seconds

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.batches.append(list(texts))
        if "bad" in texts:
            raise ValueError("cannot embed this")
        time.sleep(self._seconds)
        return np.asarray([[len(text), 1.0] for text in texts], dtype=np.float32)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]


def ask_together(batching: BatchingEmbedder, requests: Sequence[Sequence[str]]) -> list[Vectors | Exception]:
    """What each request got, all asked at once from a thread of their own."""
    answers: list[Vectors | Exception] = [ValueError("no answer")] * len(requests)

    def ask(number: int) -> None:
        try:
            answers[number] = batching.embed(requests[number])
        except ValueError as error:
            answers[number] = error

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_answers_many_threads_in_few_batches_each_with_its_own() -> None:
    slow = SlowEmbedder()
    batching = BatchingEmbedder("slow", lambda: slow)
    answers = ask_together(batching, [["x" * size] for size in range(1, 65)])
    batching.close()
    assert [float(found[0, 0]) for found in answers if not isinstance(found, Exception)] == list(range(1, 65))
    assert len(slow.batches) < 32


def test_gives_vectors_in_the_order_of_the_texts() -> None:
    batching = BatchingEmbedder("slow", lambda: SlowEmbedder(0.0))
    sizes = [7, 1, 90, 3, 3, 50] * 30
    found = batching.embed(["x" * size for size in sizes])
    batching.close()
    assert found[:, 0].tolist() == sizes


def test_lets_a_query_pass_a_large_batch_without_starving_it() -> None:
    slow = SlowEmbedder(0.01)
    batching = BatchingEmbedder("slow", lambda: slow)
    large = threading.Thread(target=batching.embed, args=([f"passage {n} " * 50 for n in range(200)],))
    large.start()
    while len(slow.batches) < 2:
        time.sleep(0.001)
    batching.embed(["query"])
    asked_at = next(number for number, batch in enumerate(slow.batches) if "query" in batch)
    assert asked_at < 10
    assert any(text.startswith("passage") for text in slow.batches[asked_at])
    large.join()
    batching.close()
    assert sum(len(batch) for batch in slow.batches) == 201


def test_fails_the_caller_of_a_bad_text_and_no_other() -> None:
    batching = BatchingEmbedder("slow", SlowEmbedder)
    answers = ask_together(batching, [["good"], ["bad"], ["fine"]] * 5)
    batching.close()
    assert [isinstance(found, ValueError) for found in answers] == [False, True, False] * 5
    assert all("cannot embed" in str(found) for found in answers if isinstance(found, ValueError))


def test_embeds_nothing_to_nothing() -> None:
    batching = BatchingEmbedder("slow", SlowEmbedder)
    assert batching.embed([]).shape == (0, 2)
    batching.close()


def test_tells_every_caller_why_the_model_could_not_be_loaded() -> None:
    def broken() -> SlowEmbedder:
        raise OSError("no such folder")

    batching = BatchingEmbedder("slow", broken)
    for _ in range(2):
        with pytest.raises(OSError, match="no such folder"):
            batching.embed(["x"])
    batching.close()
