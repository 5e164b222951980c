"""Retrieval whole in one process: the unmodified client, the doors of files and stores, real jobs, a small embedder."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import sqlalchemy as sa
from fastapi.testclient import TestClient

from services.data.handlers import keep_file
from services.data.routes import router as data_router
from services.retrieval.embedder import Embedder
from services.retrieval.errors import EmbedderNotFound
from services.retrieval.handlers import JOB_HANDLERS
from services.retrieval.routes import router as retrieval_router
from services.retrieval.tables import VectorStore
from services.retrieval.wiring import RetrievalWiring
from shared.database import Database
from shared.jobs import Job
from shared.jobs.runner import JobRunner
from shared.settings import Settings
from shared.storage import Storage
from shared.web import Caller, create_app
from tests.fakes.access import always
from tests.fakes.word_embedder import InProcessAsking, WordEmbedder


class Parts:
    """A project's client, its worker, and the embedder between them."""

    def __init__(self, settings: Settings, database: Database, storage: Storage, project_id: str) -> None:
        self.project_id, self.database = project_id, database
        self.embedder = WordEmbedder()
        self.named: dict[str, Embedder] = {"all-minilm-l6-v2": self.embedder}
        live: Any = None  # nothing here asks from a thread
        own = settings.model_copy(update={"home": settings.home / "of-words"})
        self.embedder.describe(own.models_dir / "all-minilm-l6-v2")
        self.wiring = RetrievalWiring(own, database, storage, live, embedder=self._by_name)
        app = create_app(
            "retrieval and its files",
            [data_router, retrieval_router],
            wiring_factory=lambda: self.wiring,
            access=always(Caller(project_id, "tests", "org", "key", ("admin",), "req")),
        )
        app.state.wiring, app.state.asking = self.wiring, InProcessAsking(self.wiring)
        self.http = TestClient(app)
        self.client = openai.OpenAI(
            api_key="any", base_url="http://testserver/v1", http_client=self.http, max_retries=0
        )

    def _by_name(self, name: str) -> Embedder:
        if name not in self.named:
            raise EmbedderNotFound(f"There is no embedder {name!r} here.", param="model")
        return self.named[name]

    def upload(self, **contents: str | bytes) -> list[str]:
        """Ids of files named as the keywords, `_` before the suffix read as a dot."""
        return [self._upload(name, content) for name, content in contents.items()]

    def _upload(self, name: str, content: str | bytes) -> str:
        data = io.BytesIO(content.encode() if isinstance(content, str) else content)
        named = ".".join(name.rsplit("_", 1))
        kept = keep_file(self.wiring, self.project_id, data, filename=named, purpose="assistants", expires_after=None)
        return kept.id

    def queued(self, store_id: str) -> list[str]:
        with self.database.transaction(self.project_id) as session:
            waiting = sa.select(Job.id).where(Job.subject_id == store_id, Job.status == "queued")
            return list(session.scalars(waiting.order_by(Job.created_at)))

    def run(self, job_id: str) -> str:
        """Run one job; answers what became of it."""
        return JobRunner(self.wiring, JOB_HANDLERS, worker="test").run(self.project_id, job_id)

    def work(self, store_id: str) -> list[str]:
        """Run the store's waiting jobs that are due; answers what became of each."""
        became = [self.run(job_id) for job_id in self.queued(store_id)]
        return [one for one in became if one != "unclaimed"]

    def count(self, table: Any, store_id: str) -> int:
        with self.database.transaction(self.project_id) as session:
            of_store = table.vector_store_id == store_id
            return session.scalar(sa.select(sa.func.count()).select_from(table).where(of_store)) or 0

    def ask(self, store_id: str, query: str, **options: Any) -> list[str]:
        return [found.filename for found in self.client.vector_stores.search(store_id, query=query, **options)]

    @contextmanager
    def working(self) -> Iterator[None]:
        """A worker beside the client, for helpers that wait for it."""
        runner, stop = JobRunner(self.wiring, JOB_HANDLERS, worker="test"), threading.Event()

        def work() -> None:
            while not stop.wait(0.02):
                with self.database.transaction(self.project_id) as session:
                    due = sa.select(Job.id).where(Job.status == "queued", Job.run_after <= sa.func.now())
                    waiting = list(session.scalars(due))
                for job_id in waiting:
                    runner.run(self.project_id, job_id)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(30)

    def age(self, store_id: str, *, seconds: float) -> None:
        """Let the store's last use, and the jobs that wait for a moment of it, lie further back."""
        back = sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
        with self.database.transaction(self.project_id) as session:
            used = VectorStore.last_active_at - back
            session.execute(sa.update(VectorStore).where(VectorStore.id == store_id).values(last_active_at=used))
            due = sa.update(Job).where(Job.subject_id == store_id, Job.status == "queued")
            session.execute(due.values(run_after=Job.run_after - back))
