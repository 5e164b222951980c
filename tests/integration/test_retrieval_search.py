"""The search's SQL against the real Postgres: modes, filters, ties, tenants, odd queries."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sqlalchemy.orm import Session

from services.retrieval import repository
from services.retrieval.document_rows import Indexed, replace_documents
from services.retrieval.embedder import Vectors
from services.retrieval.passages import Chunk
from services.retrieval.repository import Attachment, SourceFile
from services.retrieval.schemas import SearchBody
from services.retrieval.search import search
from services.retrieval.tables import VectorStore
from shared.database import Database
from shared.ids import new_id
from tests.conftest import make_project
from tests.fakes.word_embedder import WordEmbedder

pytestmark = pytest.mark.stack

TEXTS = {
    "naptime.md": ("autovacuum_naptime", "Specifies the minimum delay between runs. The value is a number."),
    "workers.md": ("autovacuum_max_workers", "Specifies the number of processes beside autovacuum_naptime."),
    "type.md": ("xmloption", "The type of value that the parameter takes is enum: type, value, parameter, type."),
    **{
        f"common-{n:02}.md": (f"setting {n}", f"What type of value this parameter takes: the value of type {n}.")
        for n in range(20)
    },
    "twin-a.md": ("twin", "Exactly the same words in both."),
    "twin-b.md": ("twin", "Exactly the same words in both."),
}
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "naptime.md": {"kind": "integer", "year": 2020, "stable": True},
    "workers.md": {"kind": "integer", "year": 2024.5, "stable": False},
    "type.md": {"kind": "enum", "year": "unknown"},
}
Ask = Callable[..., list[str]]
_SIZES = {"most": 256, "overlap": 0}


def write_store(session: Session, project_id: str, texts: dict[str, tuple[str, str]]) -> str:
    """A store with one passage a document, as the index job writes it."""
    embedder = WordEmbedder()
    store = VectorStore(id=new_id("vs_"), project_id=project_id, name="s", embedder="words", chunking={}, metadata_={})
    session.add(store)
    session.flush()
    for name, (title, text) in texts.items():
        file = SourceFile(id=new_id("file-"), filename=name, blob_key="", bytes=0)
        repository.attach(session, store, [Attachment(file, ATTRIBUTES.get(name, {}))], job_id="none")
        vectors = embedder.embed([f"{title}\n{text}"])
        replace_documents(session, store, [Indexed(file, title, [Chunk(title, text, 12)], _SIZES, vectors)])
    return store.id


def vector_of(query: str) -> Vectors:
    return WordEmbedder().embed([query])[0]


@pytest.fixture
def store(database: Database, project_id: str) -> str:
    with database.transaction(project_id) as session:
        return write_store(session, project_id, TEXTS)


@pytest.fixture
def ask(database: Database, project_id: str, store: str) -> Ask:
    def asked(query: str, filters: dict[str, Any] | None = None, **options: Any) -> list[str]:
        with database.transaction(project_id) as session:
            read = SearchBody.model_validate({"vector_store_id": store, "query": query, "filters": filters})
            found = search(session, store, query, vector_of(query), filters=read.filters, **{"k": 50, **options})
        return [one["document"] for one in found]

    return asked


@pytest.mark.parametrize("mode", ["hybrid", "text"])
def test_lets_a_rare_identifier_win_over_common_words(ask: Ask, mode: str) -> None:
    query = "What type of value does the parameter autovacuum_naptime take?"
    assert ask(query, mode=mode)[:2] == ["naptime.md", "workers.md"]


def test_finds_by_words_only_what_has_one(ask: Ask) -> None:
    assert ask("processes", mode="text") == ["workers.md"]
    assert ask("nowhere", mode="text") == []
    assert len(ask("nowhere", mode="hybrid")) == len(TEXTS)


def test_orders_by_cosine_exactly(ask: Ask) -> None:
    query = "exactly the number of words"
    similarity = {
        name: float(vector_of(query) @ vector_of(f"{title}\n{text}")) for name, (title, text) in TEXTS.items()
    }
    found = ask(query, mode="dense")
    assert np.all(np.diff([similarity[name] for name in found]) < 1e-3)


def test_answers_ties_alike_every_time(ask: Ask) -> None:
    assert len({tuple(ask("same words in both")) for _ in range(5)}) == 1
    assert set(ask("same words in both", k=2)) == {"twin-a.md", "twin-b.md"}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"type": "eq", "key": "kind", "value": "integer"}, {"naptime.md", "workers.md"}),
        ({"type": "ne", "key": "kind", "value": "integer"}, set(TEXTS) - {"naptime.md", "workers.md"}),
        ({"type": "gt", "key": "year", "value": 2020}, {"workers.md"}),
        ({"type": "gte", "key": "year", "value": 2020}, {"naptime.md", "workers.md"}),
        ({"type": "lt", "key": "year", "value": 2024.5}, {"naptime.md"}),
        ({"type": "lte", "key": "year", "value": 2024.5}, {"naptime.md", "workers.md"}),
        ({"type": "eq", "key": "year", "value": 2020.0}, {"naptime.md"}),
        ({"type": "eq", "key": "year", "value": "2020"}, set()),
        ({"type": "eq", "key": "stable", "value": True}, {"naptime.md"}),
        ({"type": "eq", "key": "stable", "value": 1}, set()),
        ({"type": "in", "key": "kind", "value": ["enum", "none"]}, {"type.md"}),
        ({"type": "in", "key": "kind", "value": []}, set()),
        ({"type": "nin", "key": "kind", "value": ["integer"]}, set(TEXTS) - {"naptime.md", "workers.md"}),
        (
            {
                "type": "or",
                "filters": [
                    {"type": "eq", "key": "kind", "value": "enum"},
                    {
                        "type": "and",
                        "filters": [
                            {"type": "eq", "key": "kind", "value": "integer"},
                            {"type": "lt", "key": "year", "value": 2021},
                        ],
                    },
                ],
            },
            {"type.md", "naptime.md"},
        ),
        ({"type": "eq", "key": "' OR true; --", "value": "' OR true; --"}, set()),
    ],
)
def test_searches_only_the_files_that_pass_the_filter(ask: Ask, filters: dict[str, Any], expected: set[str]) -> None:
    query = "Specifies the type of the same words"
    for mode in ("hybrid", "dense"):
        assert set(ask(query, mode=mode, filters=filters)) == expected
    assert set(ask(query, mode="text", filters=filters)) <= expected


@pytest.mark.parametrize(
    "query",
    ["", "   ", "'", "\\'\\", "a & b | !c <-> d:*", "%s :x {y}", "the of and", "x" * 5000, "a_b." * 2000, "💥 naïve"],
)
def test_takes_any_query(ask: Ask, query: str) -> None:
    for mode in ("hybrid", "dense", "text"):
        assert len(ask(query, mode=mode)) <= len(TEXTS)


def test_takes_a_whole_page_as_a_query(ask: Ask) -> None:
    page = " ".join(f"word{n}" for n in range(3000)) + " autovacuum_naptime"
    assert ask("autovacuum_naptime " + page, mode="text")[0] == "naptime.md"


def test_finds_nothing_in_another_projects_store(
    database: Database, admin_database: Database, project_id: str, store: str
) -> None:
    stranger = make_project(admin_database)
    with database.transaction(stranger) as session:
        own = write_store(session, stranger, {"own.md": ("own", "autovacuum_naptime is mine")})
        for mode in ("hybrid", "dense", "text"):
            query = "autovacuum_naptime"
            assert search(session, store, query, vector_of(query), k=5, mode=mode) == []
            assert [one["document"] for one in search(session, own, query, vector_of(query), k=5, mode=mode)] == [
                "own.md"
            ]


def test_says_what_a_citation_needs(database: Database, project_id: str, store: str) -> None:
    with database.transaction(project_id) as session:
        [found] = search(session, store, "autovacuum_naptime", vector_of("autovacuum_naptime"), k=1)
    assert set(found) == {
        "id", "document_id", "document", "file_id", "title", "text", "score", "attributes",
    }  # fmt: skip
    assert (found["document"], found["title"]) == ("naptime.md", "autovacuum_naptime")
    assert found["attributes"] == ATTRIBUTES["naptime.md"]
