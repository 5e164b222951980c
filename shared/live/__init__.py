"""Live requests: a short-lived question to a worker through its queue, answered on this process's one reply stream.

Request: a Celery message with a deadline. Replies: entries `{r: request id, k: admitted|delta|done|error, d: JSON}` on
one Redis stream per asking process, demultiplexed by request id; the stream is trimmed and expires with its owner.
A cancellation is an entry on a stream that every worker reads. Lost only with its client: nothing here is durable.
"""

from shared.live.async_client import AsyncLiveClient
from shared.live.client import LiveClient
from shared.live.protocol import QueueFull, Reply, WorkerSilent
from shared.live.server import LiveContext, LiveHandler, LiveServer

__all__ = [
    "AsyncLiveClient",
    "LiveClient",
    "LiveContext",
    "LiveHandler",
    "LiveServer",
    "QueueFull",
    "Reply",
    "WorkerSilent",
]
