"""One connection of an event loop serves many tasks, and survives whatever happens to one of them or to itself."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import redis
import uvloop

from shared.ids import new_id
from shared.loop_redis import LoopRedis, Script
from shared.settings import Settings
from tests.fakes.standstill import stand_still

pytestmark = pytest.mark.stack


OnALoop = Callable[..., Any]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def on_a_loop(request: pytest.FixtureRequest) -> OnALoop:
    """Runs a coroutine of a client on a loop of either kind: the gateway's transports are uvloop's."""

    def run(url: str, ask: Callable[[LoopRedis], Awaitable[Any]], *, patience: float = 5.0) -> Any:
        async def asking() -> Any:
            client = LoopRedis(url, patience=patience)
            try:
                return await ask(client)
            finally:
                await client.aclose()

        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(asking())

    return run


def test_gives_everybody_their_own_answer(settings: Settings, on_a_loop: OnALoop) -> None:
    async def ask(client: LoopRedis) -> list[bytes]:
        return await asyncio.gather(*(client.call("ECHO", str(number)) for number in range(500)))

    assert on_a_loop(settings.redis_url, ask) == [str(number).encode() for number in range(500)]


def test_a_cancelled_command_leaves_the_others_their_answers(settings: Settings, on_a_loop: OnALoop) -> None:
    async def ask(client: LoopRedis) -> list[bytes]:
        early = asyncio.gather(*(client.call("ECHO", "early") for _ in range(8)))
        await asyncio.sleep(0)
        early.cancel()  # while it connects
        await asyncio.sleep(0)
        blocked = asyncio.create_task(client.call("BLPOP", new_id("test:nothing:"), 1))
        await client_is_busy(client)
        behind = asyncio.create_task(client.call("ECHO", "behind"))
        blocked.cancel()
        return [await behind, await client.call("ECHO", "after")]

    assert on_a_loop(settings.redis_url, ask) == [b"behind", b"after"]


def test_sends_a_script_only_once(settings: Settings, on_a_loop: OnALoop) -> None:
    script, key = Script(f"return redis.call('INCRBY', KEYS[1], ARGV[1]) -- {new_id('')}"), new_id("test:")

    async def ask(client: LoopRedis) -> list[int]:
        return [await client.run(script, [key], [2]) for _ in range(3)]

    assert on_a_loop(settings.redis_url, ask) == [2, 4, 6]
    stored = redis.Redis.from_url(settings.redis_url)
    assert stored.script_exists(script.sha1) == [True]


def test_raises_what_the_server_refuses_and_goes_on(settings: Settings, on_a_loop: OnALoop) -> None:
    async def ask(client: LoopRedis) -> bytes:
        with pytest.raises(redis.ResponseError, match="unknown command"):
            await client.call("NONSENSE")
        return bytes(await client.call("PING"))

    assert on_a_loop(settings.redis_url, ask) == b"PONG"


def test_connects_again_after_the_server_has_closed_the_connection(settings: Settings, on_a_loop: OnALoop) -> None:
    async def ask(client: LoopRedis) -> bytes:
        number = await client.call("CLIENT", "ID")
        redis.Redis.from_url(settings.redis_url).client_kill_filter(_id=str(number))
        await asyncio.sleep(0.1)
        return bytes(await client.call("PING"))

    assert on_a_loop(settings.redis_url, ask) == b"PONG"


def test_repeats_no_command_that_was_under_way_when_the_connection_broke(
    settings: Settings, on_a_loop: OnALoop
) -> None:
    async def ask(client: LoopRedis) -> bytes:
        number = await client.call("CLIENT", "ID")
        blocked = asyncio.create_task(client.call("BLPOP", new_id("test:nothing:"), 3))
        await client_is_busy(client)
        redis.Redis.from_url(settings.redis_url).client_kill_filter(_id=str(number))
        with pytest.raises(redis.ConnectionError):
            await blocked
        return bytes(await client.call("PING"))

    assert on_a_loop(settings.redis_url, ask) == b"PONG"


def test_gives_up_a_server_that_hangs_and_asks_anew(settings: Settings, on_a_loop: OnALoop) -> None:
    async def ask(client: LoopRedis) -> tuple[float, bytes]:
        began = time.monotonic()
        asked = [client.call("BLPOP", new_id("test:nothing:"), 3), client.call("PING")]
        told = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(error) for error in told] == [redis.TimeoutError, redis.TimeoutError]
        return time.monotonic() - began, await client.call("PING")

    seconds, answer = on_a_loop(settings.redis_url, ask, patience=0.3)
    assert seconds < 2
    assert answer == b"PONG"


def test_keeps_the_connection_when_its_own_loop_stood_still(settings: Settings, on_a_loop: OnALoop) -> None:
    key = new_id("test:")

    async def ask(client: LoopRedis) -> None:
        number = await client.call("CLIENT", "ID")
        asked = asyncio.create_task(client.call("BLPOP", key, 5))
        await asyncio.sleep(0.1)
        await stand_still(1, lambda: redis.Redis.from_url(settings.redis_url).rpush(key, "in time"))
        assert await asked == [key.encode(), b"in time"]
        assert await client.call("CLIENT", "ID") == number

    on_a_loop(settings.redis_url, ask, patience=0.6)


def test_a_command_that_cannot_be_sent_leaves_the_others_their_answers(settings: Settings, on_a_loop: OnALoop) -> None:
    async def ask(client: LoopRedis) -> list[bytes]:
        with pytest.raises(TypeError):
            await client.call("ECHO", cast(Any, object()))
        return [await client.call("ECHO", "mine"), await client.call("ECHO", "mine, too")]

    assert on_a_loop(settings.redis_url, ask, patience=2.0) == [b"mine", b"mine, too"]


def test_reads_user_password_and_database_off_the_url(settings: Settings, on_a_loop: OnALoop) -> None:
    async def database(client: LoopRedis) -> str:
        return str(await client.call("CLIENT", "INFO"))

    url = settings.redis_url.removesuffix("/0")
    assert " db=3 " in on_a_loop(url + "/3", database)
    assert " db=3 " in on_a_loop(url.replace("redis://:", "redis://default:") + "/3", database)
    with pytest.raises(redis.AuthenticationError):
        on_a_loop(url.replace("redis://:", "redis://:not"), database)


def test_says_so_when_nobody_listens(on_a_loop: OnALoop) -> None:
    with pytest.raises(ConnectionRefusedError):
        on_a_loop("redis://127.0.0.1:1/0", lambda client: client.call("PING"))


def test_speaks_tls_as_the_url_asks() -> None:
    from shared.loop_redis import _Address

    told = _Address.of("rediss://user:word@cache.example:6380/1?ssl_cert_reqs=none&ssl_check_hostname=false")
    assert told.tls is not None
    assert (told.host, told.port, told.tls.check_hostname) == ("cache.example", 6380, False)
    assert told.greeting == (("AUTH", "user", "word"), ("SELECT", 1))
    strict = _Address.of("rediss://cache.example/0").tls
    assert strict is not None
    assert strict.check_hostname


async def client_is_busy(client: LoopRedis) -> None:
    """Until a command is under way."""
    async with asyncio.timeout(5):
        while client._line is None or not client._line._waiting:
            await asyncio.sleep(0.001)
