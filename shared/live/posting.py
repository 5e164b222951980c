"""Putting a live request on its Celery queue: in one trip to Redis, and only while the queue has room.

Asking for the queue's length and then publishing through Celery takes more trips and far more code, all of it cold in
the processor's caches after an answer has been computed. What is put there is the same message (protocol 2, "Message
Protocol" in Celery's documentation, in the envelope of kombu's Redis transport); a test compares them.
"""

import base64
import json
import os
import socket
import time
from typing import Any
from uuid import uuid4

from shared.live.protocol import Call, QueueFull
from shared.loop_redis import Script
from shared.settings import Settings
from shared.task_queue import ANSWER_LIVE

POST = Script("""
local waiting = redis.call('LLEN', KEYS[1])
if waiting >= tonumber(ARGV[1]) then return waiting end
redis.call('LPUSH', KEYS[1], ARGV[2])
return -1
""")
"""Key: the queue. Arguments: the most that may wait there, the message. Answers -1, or how many wait in a full one."""
UNREACHABLE = "The queue (Redis) is not reachable: the request was not sent, or is given up. Try again."
_ORIGIN = f"{os.getpid()}@{socket.gethostname()}"


def posting(call: Call, body: dict[str, Any], reply_to: str, settings: Settings) -> tuple[list[str], list[int | str]]:
    """The script's keys and arguments for one request; its replies go to the stream `reply_to`."""
    request = {
        "id": call.id,
        "trace_id": call.trace_id,
        "project_id": call.project_id,
        "kind": call.kind,
        "queue": call.queue,
        "body": body,
        "reply_to": reply_to,
        "admit_before": time.time() + call.queue_wait,
        "timeout_s": call.timeout_s,
    }
    text = message(call.queue, ANSWER_LIVE, request, shown_as=call.kind)
    return [call.queue], [_most_waiting(call, settings), text]


def check_posted(call: Call, waiting: int, settings: Settings) -> None:
    """Raise QueueFull if the script answered that so many wait already."""
    if waiting >= 0:
        raise QueueFull(
            f"{waiting} requests are waiting for {call.queue}; the limit is {_most_waiting(call, settings)}. "
            "Try again shortly.",
            retry_after=5 if call.is_batch else 1,
        )


def _most_waiting(call: Call, settings: Settings) -> int:
    return settings.queue_limit_batch if call.is_batch else settings.queue_limit_interactive


def message(queue: str, task: str, argument: dict[str, Any], *, shown_as: str) -> str:
    """What Celery and kombu would write for `task(argument)`, whose result nobody keeps; logs show it as `shown_as`."""
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
