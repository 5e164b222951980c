"""Redis for an event loop: a client that notices a connection which the server has closed before it uses it."""

from typing import Any

from redis.asyncio import Redis
from redis.maint_notifications import MaintNotificationsConfig


def loop_redis(url: str, **options: Any) -> Redis:
    """A client for one event loop; `options` as of `redis.asyncio.Redis`.

    Maintenance notifications are off: with them redis-py (8.1) takes the end of a closed connection for news and
    hands the connection out, so that after a restart of Redis every idle connection costs one request its answer.
    """
    return Redis.from_url(url, maint_notifications_config=MaintNotificationsConfig(enabled=False), **options)
