"""An event loop that stands still for a while, as a paused machine's does."""

import asyncio
import socket
import time
from collections.abc import Callable


async def stand_still(seconds: float, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Stop the loop in the callback of a socket: after such a one uvloop runs its timers before it reads."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    woken, waking = socket.socketpair()

    def stop() -> None:
        loop.remove_reader(woken)
        meanwhile()
        time.sleep(seconds)
        done.set_result(None)

    with woken, waking:
        loop.add_reader(woken, stop)
        waking.send(b"!")
        await done
