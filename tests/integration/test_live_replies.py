"""The worker's pen: replies arrive whole and in order, however many come at once, and none is lost at the end."""

import json
import threading
from typing import Any, cast

import pytest
import redis

from shared.ids import new_id
from shared.live.protocol import entries
from shared.live.replies import ReplyWriter
from shared.live.server import InFlight
from shared.settings import Settings

pytestmark = pytest.mark.stack


def written(settings: Settings, stream: str) -> list[tuple[str, str, Any]]:
    connected = redis.Redis.from_url(settings.redis_url)
    found = cast(Any, connected.xrange(stream))
    return [
        (fields[b"r"].decode(), fields[b"k"].decode(), json.loads(fields[b"d"]))
        for _, fields in entries([[stream, found]])
    ]


def test_writes_everything_it_was_given_before_it_ends(settings: Settings) -> None:
    stream, writer = new_id("test:replies:"), ReplyWriter(settings.redis_url)
    for number in range(1000):
        writer.give(stream, "a", "delta", {"text": str(number)})
    writer.close()
    assert [data["text"] for _, _, data in written(settings, stream)] == [str(number) for number in range(1000)]


def test_keeps_the_order_of_every_request_while_many_write_at_once(settings: Settings) -> None:
    stream, writer = new_id("test:replies:"), ReplyWriter(settings.redis_url)

    def answer(name: str) -> None:
        for number in range(50):
            writer.give(stream, name, "delta", {"number": number})
        writer.give_last(stream, name, "done", {})

    threads = [threading.Thread(target=answer, args=(f"r{n}",)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    found = written(settings, stream)
    for n in range(20):
        own = [(kind, data) for name, kind, data in found if name == f"r{n}"]
        assert own == [("delta", {"number": number}) for number in range(50)] + [("done", {})]


def test_a_last_reply_with_nothing_before_it_is_there_when_giving_it_returns(settings: Settings) -> None:
    stream, writer = new_id("test:replies:"), ReplyWriter(settings.redis_url)
    for number in range(20):
        writer.give_last(stream, f"r{number}", "done", {})
        assert len(written(settings, stream)) == number + 1
    writer.close()


def test_tells_once_that_a_longer_answer_has_begun_and_never_after_its_end(settings: Settings) -> None:
    stream, writer = new_id("test:replies:"), ReplyWriter(settings.redis_url)
    short, long = (InFlight(writer, {"reply_to": stream, "id": name}) for name in ("short", "long"))
    short.end("done", {})
    long.tell_admission(after_seconds=60)
    long.reply({"text": "a"})
    long.reply({"text": "b"})
    for flight in (short, long):
        flight.tell_admission()
    long.end("done", {})
    writer.close()
    found = [(name, kind) for name, kind, _ in written(settings, stream)]
    assert found == [("short", "done"), ("long", "admitted"), ("long", "delta"), ("long", "delta"), ("long", "done")]


def test_never_makes_its_giver_wait_for_redis() -> None:
    writer = ReplyWriter("redis://127.0.0.1:1/0")
    for number in range(100):
        writer.give("nowhere", "a", "delta", {"number": number})
    writer.close()
    assert not writer._thread.is_alive()
