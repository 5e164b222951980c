"""Whose wish it was that an answer ends: the client's, somebody else's, or both."""

import asyncio
from typing import Any

import pytest
from fastapi import Request
from starlette.types import Message

from shared.web import ClientGone, while_connected

Client = asyncio.Queue[Message | Exception]
GONE: Message = {"type": "http.disconnect"}


def request_of(client: Client) -> Request:
    async def receive() -> Message:
        message = await client.get()
        if isinstance(message, Exception):
            raise message
        return message

    return Request({"type": "http"}, receive)


async def under_way(client: Client, answer: Any = None) -> asyncio.Task[Any]:
    asker = asyncio.create_task(while_connected(request_of(client), answer or asyncio.sleep(60)))
    client.put_nowait({"type": "http.request"})
    await settled()
    assert not asker.done()
    return asker


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def outcome(asker: asyncio.Task[Any]) -> type[BaseException]:
    await asyncio.wait([asker], timeout=5)
    return asyncio.CancelledError if asker.cancelled() else type(asker.exception())


def test_hands_out_the_answer_and_listens_no_longer() -> None:
    async def ask() -> None:
        assert await while_connected(request_of(asyncio.Queue()), asyncio.sleep(0.01, "the answer")) == "the answer"
        await settled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(ask())


def test_a_client_that_hangs_up_ends_the_answer() -> None:
    async def ask() -> None:
        client: Client = asyncio.Queue()
        asker = await under_way(client)
        client.put_nowait(GONE)
        assert await outcome(asker) is ClientGone
        assert asker.cancelling() == 0

    asyncio.run(ask())


def test_somebody_else_who_cancels_is_obeyed() -> None:
    async def ask() -> None:
        asker = await under_way(asyncio.Queue())
        asker.cancel()
        assert await outcome(asker) is asyncio.CancelledError

    asyncio.run(ask())


@pytest.mark.parametrize("client_first", [True, False])
def test_somebody_else_is_obeyed_though_the_client_hangs_up_too(client_first: bool) -> None:
    async def ask() -> None:
        client: Client = asyncio.Queue()
        asker = await under_way(client, _slow_to_end())
        for client_now in (client_first, not client_first):
            if client_now:
                client.put_nowait(GONE)
            else:
                asker.cancel()
            await asyncio.sleep(0.01)
        assert await outcome(asker) is asyncio.CancelledError

    asyncio.run(ask())


def test_a_channel_that_breaks_is_no_hang_up() -> None:
    async def ask() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        client: Client = asyncio.Queue()
        asker = await under_way(client)
        client.put_nowait(OSError("the channel broke"))
        await settled()
        assert not asker.done()
        asker.cancel()
        assert await outcome(asker) is asyncio.CancelledError

    asyncio.run(ask())


def test_an_answer_that_raises_raises_here() -> None:
    async def refuse() -> None:
        await asyncio.sleep(0.01)
        raise LookupError

    async def ask() -> None:
        asker = await under_way(asyncio.Queue(), refuse())
        assert await outcome(asker) is LookupError
        await settled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(ask())


async def _slow_to_end() -> None:
    """As an answer is that tells a worker of its end."""
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.05)
