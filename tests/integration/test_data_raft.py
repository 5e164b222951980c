"""RAFT datasets: ordered by another service or over HTTP, passages by live request from a hand-written retriever."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from services.data.handlers import JOB_HANDLERS
from services.retrieval.tables import Document, PassageRow, VectorStore, VectorStoreFile
from shared import jobs, read_models
from shared.errors import InvalidInput, Unavailable, UpliftError
from shared.ids import new_id
from shared.jobs.runner import JobRunner
from shared.messages import OrderRaftDataset
from shared.wiring import Wiring
from tests.integration.test_data_datasets import imported, rows
from tests.integration.test_data_files import client_of

pytestmark = pytest.mark.stack
COUNT = 60


class Retriever:
    """Answers searches as the retrieval worker does: the asked thing's document second, its neighbours around it."""

    def __init__(self, error: UpliftError | None = None) -> None:
        self.error = error
        self.bodies: list[dict[str, Any]] = []

    def ask_many(
        self, queue: str, kind: str, _project_id: str, bodies: Iterable[dict[str, Any]], **_options: Any
    ) -> Iterator[tuple[int, dict[str, Any] | UpliftError]]:
        assert (queue, kind) == ("retrieval.batch", "retrieval.search")
        for number, body in reversed(list(enumerate(bodies))):
            self.bodies.append(body)
            found = [self._search(query, body["k"], body["vector_store_id"]) for query in body["query"]]
            yield number, self.error or {"results": found}

    def _search(self, query: str, k: int, store_id: str) -> list[dict[str, Any]]:
        asked = int(query.split("thing")[1].split("x")[0])
        near = [(asked + step) % COUNT for step in (1, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)]
        return [passage(n, store_id) for n in near[:k]]


def passage(n: int, store_id: str) -> dict[str, Any]:
    return {
        "id": f"{store_id}p{n}",
        "document_id": f"{store_id}d{n}",
        "document": f"{n}.md",
        "file_id": f"f{n}",
        "title": f"thing {n}",
        "text": f"Thing {n} is {n}.",
        "score": 0.5,
    }


@pytest.fixture
def http(wiring: Wiring, project_id: str) -> Iterator[TestClient]:
    client = client_of(wiring, project_id)
    yield client
    client.close()


@pytest.fixture
def corpus(wiring: Wiring, project_id: str) -> str:
    """A corpus that holds every gold document, its rows written as the retrieval service, their owner, would."""
    store_id = new_id("vs_")
    mine = {"project_id": project_id, "vector_store_id": store_id}
    numbers = range(COUNT)
    with wiring.database.transaction(project_id) as session:
        store = {"id": store_id, "project_id": project_id, "name": "things", "embedder": "none"}
        session.execute(sa.insert(VectorStore).values(**store, chunking={}, metadata_={}))
        files = [mine | {"file_id": f"f{n}", "filename": f"{n}.md", "attributes": {}} for n in numbers]
        session.execute(sa.insert(VectorStoreFile), files)
        documents = [
            mine | {"id": f"{store_id}d{n}", "file_id": f"f{n}", "key": f"{n}.md", "title": ""} for n in numbers
        ]
        session.execute(sa.insert(Document), documents)
        blank = {"position": 0, "tokens": 4, "embedding": [0.0] * 384, "search": ""}
        columns = ("id", "document_id", "title", "text")
        passages = [mine | blank | {name: passage(n, store_id)[name] for name in columns} for n in numbers]
        session.execute(sa.insert(PassageRow), passages)
    return store_id


def order(wiring: Wiring, project_id: str, source: str, store: str, **options: Any) -> tuple[str, str]:
    asked = {"k": 3, "rows_limit": 20, "gold_share": 0.75, "seed": 1, **options}
    command = OrderRaftDataset(dataset_id=new_id("ds_"), source_dataset_id=source, vector_store_id=store, **asked)
    with wiring.database.transaction(project_id) as session:
        return command.dataset_id, jobs.send(session, project_id, command).id


def examples(http: TestClient, dataset_id: str) -> list[dict[str, Any]]:
    return list(http.get(f"/v1/datasets/{dataset_id}/examples", params={"limit": 1000}).json()["data"])


def test_builds_rows_as_serving_will_see_them(http: TestClient, wiring: Wiring, project_id: str, corpus: str) -> None:
    source = imported(http, wiring, project_id, rows(COUNT))
    held_out = {d for e in examples(http, source["id"]) if e["split"] != "train" for d in e["documents"]}
    in_test = {d for e in examples(http, source["id"]) if e["split"] == "test" for d in e["documents"]}
    dataset_id, job_id = order(wiring, project_id, source["id"], corpus)
    parts = replace(wiring, live=Retriever())  # type: ignore[arg-type]
    assert JobRunner(parts, JOB_HANDLERS, worker="tests").run(project_id, job_id) == "succeeded"

    made = http.get(f"/v1/datasets/{dataset_id}").json()
    assert (made["status"], made["sizes"]) == ("ready", {"train": 20, "validation": 6, "test": 0})
    assert made["lineage"] == {
        "dataset_id": source["id"],
        "dataset_sha256": source["sha256"],
        "vector_store_id": corpus,
    }
    gold = made["report"]["splits"]["train"]["gold"]
    assert gold["withheld"] == 5
    assert sum(gold.values()) == 20
    sources = {e["id"]: e for e in examples(http, source["id"])}
    for row in examples(http, dataset_id):
        origin = sources[row["provenance"]["example_id"]]
        assert (row["answer"], row["cluster"], row["split"]) == (origin["answer"], origin["cluster"], origin["split"])
        shown = [one["document"] for one in row["passages"]]
        assert len(shown) == 3
        assert not set(shown) & (held_out if row["split"] == "train" else in_test) - set(row["documents"])
        has_gold = row["documents"][0] in shown
        assert has_gold == (row["provenance"]["gold"] in {"retrieved", "added"})


def test_ends_the_order_with_what_its_sender_needs(
    wiring: Wiring, http: TestClient, project_id: str, corpus: str
) -> None:
    source = imported(http, wiring, project_id, rows(COUNT))
    dataset_id, job_id = order(wiring, project_id, source["id"], corpus)
    parts = replace(wiring, live=Retriever())  # type: ignore[arg-type]
    JobRunner(parts, JOB_HANDLERS, worker="tests").run(project_id, job_id)
    with wiring.database.transaction(project_id) as session:
        result = jobs.get(session, job_id).result
        published = session.execute(
            sa.select(read_models.datasets.c.status).where(read_models.datasets.c.id == dataset_id)
        ).scalar_one()
    assert result is not None
    assert (result["dataset_id"], result["sizes"]["train"], published) == (dataset_id, 20, "ready")


def test_the_same_order_gives_the_same_rows(http: TestClient, wiring: Wiring, project_id: str, corpus: str) -> None:
    source = imported(http, wiring, project_id, rows(COUNT))
    parts = replace(wiring, live=Retriever())  # type: ignore[arg-type]
    hashes = []
    for seed in (1, 1, 2):
        body = {"dataset": source["id"], "vector_store": corpus, "rows_limit": 20, "seed": seed}
        ordered = http.post("/v1/datasets/raft", json=body).json()
        assert JobRunner(parts, JOB_HANDLERS, worker="tests").run(project_id, ordered["job_id"]) == "succeeded"
        hashes.append(http.get(f"/v1/datasets/{ordered['id']}").json()["sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_fails_with_retrievals_own_words(http: TestClient, wiring: Wiring, project_id: str, corpus: str) -> None:
    source = imported(http, wiring, project_id, rows(COUNT))
    dataset_id, job_id = order(wiring, project_id, source["id"], corpus)
    parts = replace(wiring, live=Retriever(InvalidInput("k is too large")))  # type: ignore[arg-type]
    assert JobRunner(parts, JOB_HANDLERS, worker="tests").run(project_id, job_id) == "failed"
    shown = http.get(f"/v1/datasets/{dataset_id}").json()
    assert (shown["status"], shown["error"]["message"]) == ("failed", "k is too large")


def test_waits_for_a_retriever_that_is_away(http: TestClient, wiring: Wiring, project_id: str, corpus: str) -> None:
    source = imported(http, wiring, project_id, rows(COUNT))
    dataset_id, job_id = order(wiring, project_id, source["id"], corpus)
    parts = replace(wiring, live=Retriever(Unavailable("away")))  # type: ignore[arg-type]
    assert JobRunner(parts, JOB_HANDLERS, worker="tests").run(project_id, job_id) == "queued"
    assert http.get(f"/v1/datasets/{dataset_id}").json()["status"] == "pending"


def test_refuses_a_corpus_that_knows_none_of_the_gold_documents(
    http: TestClient, wiring: Wiring, project_id: str
) -> None:
    source = imported(http, wiring, project_id, rows(COUNT))
    dataset_id, job_id = order(wiring, project_id, source["id"], "vs_empty")
    parts = replace(wiring, live=Retriever())  # type: ignore[arg-type]
    assert JobRunner(parts, JOB_HANDLERS, worker="tests").run(project_id, job_id) == "failed"
    error = http.get(f"/v1/datasets/{dataset_id}").json()["error"]
    assert error["code"] == "gold_documents_unknown"
    assert ".md" in error["message"]
