"""What we put on a queue is what Celery itself would put there."""

import base64
import json
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Queue

from shared.live.posting import message


@pytest.fixture
def celerys() -> Any:
    """The message that Celery and kombu make of the same call, taken off the in-memory transport as it lies there."""
    app = Celery("ours", broker="memory://", set_as_current=False)
    app.conf.update(task_serializer="json", task_ignore_result=True)
    with Connection("memory://") as connection:
        channel = connection.channel()
        queue = Queue("live")(channel)
        queue.declare()
        app.send_task(
            "a.task", args=[{"text": "ä"}], argsrepr="shown", ignore_result=True, queue=queue, connection=connection
        )
        yield json.loads(json.dumps(channel._get("live"), default=str))


def test_has_the_shape_of_celerys_own(celerys: Any) -> None:
    ours = json.loads(message("live", "a.task", {"text": "ä"}, shown_as="shown"))
    made_up = {"id", "root_id", "origin"}
    assert ours["headers"].keys() == celerys["headers"].keys()
    for name in ours["headers"].keys() - made_up:
        assert ours["headers"][name] == celerys["headers"][name], name
    # Celery passes `argsrepr` on as a property too, which no worker reads
    assert ours["properties"].keys() == celerys["properties"].keys() - {"argsrepr"}
    assert (ours["content-type"], ours["content-encoding"]) == (celerys["content-type"], celerys["content-encoding"])


def test_says_what_celery_says_to_the_task(celerys: Any) -> None:
    ours = json.loads(message("live", "a.task", {"text": "ä"}, shown_as="shown"))
    assert decoded(ours) == decoded(celerys)


def decoded(envelope: Any) -> Any:
    return json.loads(base64.b64decode(envelope["body"]))
