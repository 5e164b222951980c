"""A real worker that stands in for data, training and generation: it keeps their contracts and loads no model.

What a variant answers follows from its name: the base chatters, a tuned one knows every second answer, one that was
trained to read knows all that it retrieves. A base model called `broken` fails its training, one called `slow` is
never done with it; a model id that ends in `:slow` takes its time to answer.
"""

import time
import zlib
from typing import Any

import sqlalchemy as sa

from shared import read_models as others
from shared.errors import InvalidInput
from shared.ids import new_id
from shared.jobs import JobContext
from shared.live import LiveContext
from shared.messages import OrderRaftDataset, OrderRelease, OrderTraining, OrderVariants
from shared.settings import Settings
from shared.task_queue import make_worker_app
from shared.wiring import Wiring

_PUBLISHED = [sa.column(column.name, column.type) for column in others.variants.columns]
VARIANTS = sa.table("variants", *_PUBLISHED, sa.column("name"), sa.column("digest"))


def train(context: JobContext, order: OrderTraining) -> None:
    if order.base_model == "broken":
        raise InvalidInput("The base model is broken.")
    until = time.monotonic() + (60 if order.base_model == "slow" else 0.2)
    while time.monotonic() < until:
        context.progress(1, 2, "steps")
        context.check()
        time.sleep(0.05)
    result = {"adapter_id": f"ad_{order.suffix}", "model_id": f"ft:{order.suffix}", "metrics": {}}
    with context.transaction() as session:
        context.succeed(session, result | {"train_seconds": 0.2, "trained_tokens": 100})


def build_raft_dataset(context: JobContext, order: OrderRaftDataset) -> None:
    with context.transaction() as session:
        context.succeed(session, {"dataset_id": order.dataset_id, "sizes": {"train": order.rows_limit}})


def create_variants(context: JobContext, order: OrderVariants) -> None:
    made: dict[str, dict[str, str]] = {}
    with context.transaction() as session:
        for one in order.variants:
            row: dict[str, Any] = {"id": new_id("var_"), "project_id": context.project_id}
            row |= {"model_id": f"{one.key}:{new_id('')}", "base_model": one.base_model, "prompt_id": None}
            row |= {"retrieval": one.retrieval and one.retrieval.model_dump(), "sampling": one.sampling.model_dump()}
            row |= {"name": one.name, "digest": new_id(""), "adapter_id": one.adapter_id}
            session.execute(sa.insert(VARIANTS).values(row))
            made[one.key] = {"variant_id": row["id"], "model_id": row["model_id"]}
        context.succeed(session, {"variants": made})


def release(context: JobContext, order: OrderRelease) -> None:
    assert order.evidence["comparison"]["verdict"] == "better"
    with context.transaction() as session:
        context.succeed(session, {"release_id": "rel_1", "model_id": order.model_id})


def chat(_context: LiveContext, body: dict[str, Any]) -> dict[str, Any]:
    """Questions are of the form `What is the value of <key>?`, answered by the key's checksum."""
    kind = str(body["model"]).split("@")[0].split(":")[0]
    key = str(body["messages"][-1]["content"]).removesuffix("?").split()[-1]
    time.sleep(0.2 if str(body["model"]).endswith(":slow") else 0)
    right = str(zlib.crc32(key.encode()))
    knows = {"tuned": int(right) % 2 == 0, "raft+retrieval": True}.get(kind, False)
    document = {"file_id": "", "document": f"{key}.md", "passage_id": "", "title": key, "score": 1.0, "text": right}
    return {
        "model": body["model"],
        "text": right if knows else f"It may be that {key} has the value {len(key)}.",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 30, "completion_tokens": 5, "total_tokens": 35},
        "citations": [document] if kind.endswith("retrieval") else [],
        "timings": {"queue_ms": 0.0, "prefill_ms": 1.0, "total_ms": 2.0},
    }


app = make_worker_app(
    "services-without-models",
    ["data", "training", "generation.batch"],
    lambda: Wiring.from_settings(Settings()),
    {
        OrderTraining: train,
        OrderRaftDataset: build_raft_dataset,
        OrderVariants: create_variants,
        OrderRelease: release,
    },
    {"generation.chat": chat},
)
