"""Putting a live request on its Celery queue: in one trip to Redis, and only while the queue has room.

Asking for the queue's length and then publishing through Celery takes more trips and far more code, all of it cold in
the processor's caches after an answer has been computed. What is put there is the same message (protocol 2, "Message
Protocol" in Celery's documentation, in the envelope of kombu's Redis transport); a test compares them.
"""

import base64
import json
import os
import socket
from typing import Any
from uuid import uuid4

import redis

_POST = """
local waiting = redis.call('LLEN', KEYS[1])
if waiting >= tonumber(ARGV[1]) then return waiting end
redis.call('LPUSH', KEYS[1], ARGV[2])
return -1
"""
_ORIGIN = f"{os.getpid()}@{socket.gethostname()}"


class Poster:
    """Posts tasks to queues; safe for many threads."""

    def __init__(self, client: redis.Redis) -> None:
        self._post = client.register_script(_POST)

    def post(self, queue: str, task: str, argument: dict[str, Any], *, shown_as: str, limit: int) -> int | None:
        """Have a worker of `queue` call `task(argument)`; answers how many wait there if that is `limit` or more.

        Logs name the argument `shown_as`. Raises redis.RedisError or OSError when Redis is not there.
        """
        waiting = int(self._post(keys=[queue], args=[limit, message(queue, task, argument, shown_as=shown_as)]))
        return None if waiting < 0 else waiting


def message(queue: str, task: str, argument: dict[str, Any], *, shown_as: str) -> str:
    """What Celery and kombu would write for this call, whose result nobody keeps."""
    task_id = str(uuid4())
    body = [[argument], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    headers: dict[str, Any] = {
        "lang": "py",
        "task": task,
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task_id,
        "parent_id": None,
        "argsrepr": shown_as,
        "kwargsrepr": "{}",
        "origin": _ORIGIN,
        "ignore_result": True,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    properties = {
        "correlation_id": task_id,
        "reply_to": "",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": queue},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": task_id,
    }
    envelope = {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": properties,
    }
    return json.dumps(envelope)
