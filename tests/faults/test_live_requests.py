"""Live requests through a real queue and worker: answers, errors, cancellation, back-pressure, a silent worker."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import redis
import structlog

from shared.errors import UpliftError
from shared.live import AsyncLiveClient, LiveClient, QueueFull, WorkerSilent, protocol
from shared.settings import Settings
from shared.telemetry import trace_id_of
from tests.fakes import processes

pytestmark = pytest.mark.stack
QUEUE = "test.interactive"
T = TypeVar("T")


@pytest.fixture(scope="module")
def worker(stack_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[processes.Process]:
    started = processes.worker(stack_environment, tmp_path_factory.mktemp("worker"), slots=8)
    with processes.killed_at_the_end(started):
        yield started


@pytest.fixture
def live(settings: Settings) -> Iterator[LiveClient]:
    client = LiveClient(settings)
    yield client
    client.close()


def ask(live: LiveClient, body: dict[str, Any], kind: str = "test.echo") -> dict[str, Any]:
    return live.ask(QUEUE, kind, "proj_x", body, timeout_s=10)


def test_streams_deltas_in_order_and_then_the_answer(live: LiveClient, worker: processes.Process) -> None:
    replies = list(live.stream(QUEUE, "test.echo", "proj_x", {"text": "one two three"}, timeout_s=10))
    assert [reply.data["text"] for reply in replies] == ["one", "two", "three", "one two three"]
    assert [reply.kind for reply in replies] == ["delta", "delta", "delta", "done"]


def on_a_loop(settings: Settings, ask: Callable[[AsyncLiveClient], Coroutine[Any, Any, T]]) -> T:
    async def run() -> T:
        client = AsyncLiveClient(settings)
        try:
            return await ask(client)
        finally:
            await client.close()

    return asyncio.run(run())


def test_streams_to_an_event_loop_too(settings: Settings, worker: processes.Process) -> None:
    async def collect(live: AsyncLiveClient) -> list[list[str]]:
        async def one(text: str) -> list[str]:
            found = live.stream(QUEUE, "test.echo", "proj_x", {"text": text}, timeout_s=10)
            return [reply.data["text"] async for reply in found]

        return await asyncio.gather(one("a b"), one("c"))

    assert on_a_loop(settings, collect) == [["a", "b", "a b"], ["c", "c"]]


def test_tells_an_event_loop_what_went_wrong(
    settings: Settings, worker: processes.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(live: AsyncLiveClient, queue: str = QUEUE, kind: str = "test.echo") -> UpliftError:
        with pytest.raises(UpliftError) as caught:
            await anext(live.stream(queue, kind, "proj_x", {"text": "x"}, timeout_s=1))
        return caught.value

    unknown = on_a_loop(settings, lambda live: ask(live, kind="test.nothing"))
    assert (unknown.status, "answers no 'test.nothing'" in unknown.message) == (400, True)
    full = on_a_loop(settings.model_copy(update={"queue_limit_interactive": 0}), ask)
    assert isinstance(full, QueueFull)
    away = on_a_loop(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"}), ask)
    assert (away.status, "not reachable" in away.message) == (503, True)
    monkeypatch.setitem(protocol.QUEUE_WAIT_SECONDS, "interactive", 0.3)
    assert isinstance(on_a_loop(settings, lambda live: ask(live, queue="nobody.interactive")), WorkerSilent)


def test_cancels_at_the_worker_when_the_task_that_waits_is_cancelled(
    settings: Settings, live: LiveClient, worker: processes.Process
) -> None:
    async def hang_up(own: AsyncLiveClient) -> None:
        async def wait() -> None:
            async for _ in own.stream(QUEUE, "test.echo", "proj_x", {"text": "a word", "seconds": 60}, timeout_s=90):
                heard.set()

        heard = asyncio.Event()
        tasks = [asyncio.create_task(wait()) for _ in range(8)]
        await heard.wait()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    on_a_loop(settings, hang_up)
    bodies = [{"text": "free", "seconds": 0.5}] * 8
    began = time.monotonic()
    answers = list(live.ask_many(QUEUE, "test.echo", "proj_x", bodies, concurrency=8, timeout_s=30))
    assert len(answers) == 8
    assert time.monotonic() - began < 15, "the slots were not given back"


@contextmanager
def connections_lost_after(settings: Settings) -> Iterator[Callable[[], None]]:
    """Ends, when called, every connection to Redis that was opened within the block."""
    store = redis.Redis.from_url(settings.redis_url)
    before = {one["id"] for one in store.client_list()}

    def lose() -> None:
        lost = [one["id"] for one in store.client_list() if one["id"] not in before]
        assert lost
        for one in lost:
            store.client_kill_filter(_id=one)

    yield lose
    store.close()


def test_repeats_and_loses_nothing_of_a_stream_when_the_connection_is_lost(
    settings: Settings, worker: processes.Process
) -> None:
    slow, expected = {"text": "a b c d", "seconds": 0.4}, ["a", "b", "c", "d", "a b c d"]

    async def hear(live: AsyncLiveClient) -> list[str]:
        heard: list[str] = []
        async for reply in live.stream(QUEUE, "test.echo", "proj_x", slow, timeout_s=10):
            heard.append(reply.data["text"])
            if heard == ["a", "b"]:
                lose()
        return heard

    with connections_lost_after(settings) as lose:
        assert on_a_loop(settings, hear) == expected
    with connections_lost_after(settings) as lose:
        live = LiveClient(settings)
        heard: list[str] = []
        for reply in live.stream(QUEUE, "test.echo", "proj_x", slow, timeout_s=10):
            heard.append(reply.data["text"])
            if heard == ["a", "b"]:
                lose()
        live.close()
    assert heard == expected


def test_asks_at_once_on_a_loop_whose_connections_redis_has_closed(
    settings: Settings, worker: processes.Process
) -> None:
    async def ask_again(live: AsyncLiveClient) -> list[str]:
        async def one() -> str:
            found = live.stream(QUEUE, "test.echo", "proj_x", {"text": "x"}, timeout_s=10)
            return [str(reply.data["text"]) async for reply in found][-1]

        assert await asyncio.gather(*[one() for _ in range(4)]) == ["x"] * 4
        lose()
        await asyncio.sleep(0.1)  # a request that is under way in this moment may fail
        return [await one() for _ in range(8)]

    with connections_lost_after(settings) as lose:
        assert on_a_loop(settings, ask_again) == ["x"] * 8


def test_brings_the_workers_error_with_its_status(live: LiveClient, worker: processes.Process) -> None:
    with pytest.raises(UpliftError, match=r"answers no 'test\.nothing'") as caught:
        ask(live, {}, kind="test.nothing")
    assert caught.value.status == 400
    with pytest.raises(UpliftError, match="KeyError") as caught:
        ask(live, {"no": "text"})
    assert caught.value.status == 500


def test_answers_many_at_once_under_their_own_index(live: LiveClient, worker: processes.Process) -> None:
    bodies = [{"text": str(i), "seconds": 0.2} for i in range(24)]
    began = time.monotonic()
    answers = dict(live.ask_many(QUEUE, "test.echo", "proj_x", bodies, concurrency=8, timeout_s=10))
    assert {index: answer["text"] for index, answer in answers.items() if isinstance(answer, dict)} == {
        i: str(i) for i in range(24)
    }
    assert time.monotonic() - began < 24 * 0.2, "the worker answered one by one"


def test_carries_the_trace_of_who_asks_to_the_worker(live: LiveClient, worker: processes.Process) -> None:
    trace_id = trace_id_of(None)
    with structlog.contextvars.bound_contextvars(trace_id=trace_id):
        answers = dict(live.ask_many(QUEUE, "test.echo", "proj_x", [{"text": "x"}] * 4, concurrency=2, timeout_s=10))
    assert [answers[i] for i in range(4)] == [{"text": "x", "trace_id": trace_id}] * 4


def test_cancels_at_the_worker_when_the_stream_is_closed(live: LiveClient, worker: processes.Process) -> None:
    stream = live.stream(QUEUE, "test.echo", "proj_x", {"text": "word", "seconds": 60}, timeout_s=90)
    assert next(stream).kind == "delta"
    stream.close()  # type: ignore[attr-defined]
    # all eight slots answer again well before the minute is over
    bodies = [{"text": "free", "seconds": 0.5}] * 8
    began = time.monotonic()
    answers = list(live.ask_many(QUEUE, "test.echo", "proj_x", bodies, concurrency=8, timeout_s=10))
    assert len(answers) == 8
    assert time.monotonic() - began < 5


def test_gives_up_many_at_once_at_their_workers(live: LiveClient, worker: processes.Process) -> None:
    class Enough(Exception):
        pass

    began = time.monotonic()

    def check() -> None:
        if time.monotonic() - began > 1:
            raise Enough

    bodies = [{"text": "word", "seconds": 60}] * 12
    with pytest.raises(Enough):
        list(live.ask_many(QUEUE, "test.echo", "proj_x", bodies, concurrency=8, timeout_s=90, tick=check))
    # neither the eight in flight nor the four that waited keep a slot
    answers = list(live.ask_many(QUEUE, "test.echo", "proj_x", [{"text": "free"}] * 8, concurrency=8, timeout_s=10))
    assert [answer["text"] for _, answer in answers if isinstance(answer, dict)] == ["free"] * 8
    assert time.monotonic() - began < 30


def test_refuses_with_retry_after_when_the_queue_is_full(settings: Settings) -> None:
    crowded = LiveClient(settings.model_copy(update={"queue_limit_interactive": 0}))
    with pytest.raises(QueueFull) as caught:
        crowded.ask("nobody.interactive", "test.echo", "proj_x", {"text": "x"}, timeout_s=1)
    crowded.close()
    assert (caught.value.status, caught.value.retry_after) == (429, 1)


def test_says_which_queue_is_silent(live: LiveClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(protocol.QUEUE_WAIT_SECONDS, "interactive", 0.3)
    with pytest.raises(WorkerSilent, match=r"No worker of nobody\.interactive"):
        live.ask("nobody.interactive", "test.echo", "proj_x", {"text": "x"}, timeout_s=1)


def test_notices_within_moments_that_the_worker_of_a_long_answer_was_killed(
    settings: Settings, stack_environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "SILENCE_SECONDS", 3.0)
    queue = "test.mortal.interactive"
    own = processes.worker(stack_environment, tmp_path, slots=2, app="tests.fakes.mortal_worker")
    with processes.killed_at_the_end(own):
        live = LiveClient(settings)
        replies = live.stream(queue, "test.echo", "proj_x", {"text": "a", "seconds": 60}, timeout_s=60)
        assert next(replies).data["text"] == "a"
        own.kill()
        began = time.monotonic()
        with pytest.raises(WorkerSilent, match="gave no sign for 3 s"):
            next(replies)
        assert time.monotonic() - began < 10
        live.close()


def test_waits_for_an_answer_whose_worker_is_alive_however_long_it_says_nothing(
    settings: Settings, worker: processes.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "SILENCE_SECONDS", protocol.SIGN_SECONDS + 2)
    live = LiveClient(settings)
    assert ask(live, {"text": "at last", "seconds": protocol.SIGN_SECONDS + 4})["text"] == "at last"
    live.close()


def test_drops_replies_from_redis_once_they_are_read(
    settings: Settings, worker: processes.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.live.housekeeping._TRIM_BYTES", 2000)
    stored = redis.Redis.from_url(settings.redis_url)

    def left(stream: str) -> int:
        return int(cast(Any, stored.xlen(stream)))

    async def talk(live: AsyncLiveClient) -> int:
        for _ in range(20):
            await live.ask(QUEUE, "test.echo", "proj_x", {"text": "word " * 20}, timeout_s=10)
        await asyncio.sleep(0.7)
        return left(live._stream)

    assert on_a_loop(settings, talk) < 25  # of 20 × 21 and more
    live = LiveClient(settings)
    for _ in range(20):
        ask(live, {"text": "word " * 20})
    time.sleep(0.7)
    assert left(live._stream) < 25
    live.close()
