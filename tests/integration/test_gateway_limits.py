"""Rate limits per key and project, and the month's tokens, seen through the door."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from services.gateway.errors import RateLimited
from services.gateway.limits import RateLimits, allowance
from services.retrieval.wiring import RetrievalWiring
from shared.database import Database
from shared.ids import new_id
from shared.settings import Settings
from shared.telemetry import logger
from tests.factories.gateway import bearer, new_key, served
from tests.fakes import processes
from tests.fakes.processes import wait_until
from tests.fakes.word_embedder import InProcessAsking, WordEmbedder

pytestmark = pytest.mark.stack
NOON = 1_800_000_000.0 - 1_800_000_000.0 % 60


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@contextmanager
def limited(settings: Settings, clock: Clock, **limits: int) -> Iterator[TestClient]:
    """The gateway with small limits and a clock that the test holds."""
    off = {f"{owner}_{unit}_per_minute": 0 for owner in ("key", "project") for unit in ("requests", "tokens")}
    with served(settings.model_copy(update=off | limits)) as client:
        client.app.state.wiring.rates._clock = clock  # type: ignore[attr-defined]
        yield client


@pytest.fixture
def key(database: Database, settings: Settings, project_id: str) -> str:
    return new_key(database, settings, project_id)


def test_counts_the_requests_of_a_key(settings: Settings, key: str, clock: Clock) -> None:
    clock.now += 17.5
    with limited(settings, clock, key_requests_per_minute=2) as http:
        for left in ("1", "0"):
            answer = http.get("/v1/models", headers=bearer(key))
            assert answer.status_code == 200
            assert answer.headers["x-ratelimit-limit-requests"] == "2"
            assert answer.headers["x-ratelimit-remaining-requests"] == left
            assert answer.headers["x-ratelimit-reset-requests"] == "43s"
            assert "x-ratelimit-limit-tokens" not in answer.headers
        refused = http.get("/v1/models", headers=bearer(key))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert refused.headers["retry-after"] == "43"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert "x-should-retry" not in refused.headers
        clock.now += 43
        assert http.get("/v1/models", headers=bearer(key)).status_code == 200


def test_shares_a_projects_limit_among_its_keys(
    settings: Settings, database: Database, project_id: str, key: str, clock: Clock
) -> None:
    second = new_key(database, settings, project_id)
    with limited(settings, clock, key_requests_per_minute=3, project_requests_per_minute=4) as http:
        assert [http.get("/v1/models", headers=bearer(key)).status_code for _ in range(4)] == [200] * 3 + [429]
        # what one key was refused was not counted against the project
        assert [http.get("/v1/models", headers=bearer(second)).status_code for _ in range(2)] == [200, 429]
        assert "This project may use 4 requests" in http.get("/v1/models", headers=bearer(second)).text


def test_lets_an_operator_give_a_project_its_own_limit(
    settings: Settings, admin_database: Database, project_id: str, key: str, clock: Clock
) -> None:
    with admin_database.system_transaction() as session:
        session.execute(
            sa.text("INSERT INTO project_quotas (project_id, requests_per_minute) VALUES (:p, 1)"), {"p": project_id}
        )
    with limited(settings, clock, project_requests_per_minute=100) as http:
        assert [http.get("/v1/models", headers=bearer(key)).status_code for _ in range(2)] == [200, 429]


def test_sends_no_headers_of_limits_that_are_off(settings: Settings, key: str, clock: Clock) -> None:
    with limited(settings, clock) as http:
        answer = http.get("/v1/models", headers=bearer(key))
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


def test_charges_tokens_after_the_answer_and_asks_before_the_next(
    settings: Settings, project_id: str, key: str, clock: Clock
) -> None:
    question = {"model": "none", "input": "x"}
    with limited(settings, clock, key_tokens_per_minute=100, project_tokens_per_minute=1000) as http:
        parts = http.app.state.wiring  # type: ignore[attr-defined]

        def left() -> str:
            # what is asked lacks its input, so that it costs nothing: the headers come from the door
            return http.post("/v1/embeddings", headers=bearer(key), json={}).headers["x-ratelimit-remaining-tokens"]

        assert left() == "100"
        allowed = allowance(parts.settings, key_id(http, key), project_id)
        parts.meter.charge(allowed, project_id, 60)
        wait_until(lambda: left() == "40", seconds=10)
        parts.meter.charge(allowed, project_id, 60)
        wait_until(lambda: left() == "0", seconds=10)
        refused = http.post("/v1/embeddings", headers=bearer(key), json=question)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert "100 tokens a minute" in refused.json()["error"]["message"]
        assert http.get("/v1/models", headers=bearer(key)).status_code == 200
        clock.now += 60
        assert left() == "100"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("limits-home")
    (folder / "models" / "tiny").mkdir(parents=True)
    (folder / "models" / "tiny" / "config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def worker(
    stack_environment: dict[str, str], home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[processes.Process]:
    environment = stack_environment | {"UPLIFT_HOME": str(home)}
    started = processes.worker(
        environment, tmp_path_factory.mktemp("echo"), app="tests.fakes.generation_without_model", slots=2
    )
    with processes.killed_at_the_end(started):
        yield started


@pytest.mark.parametrize("stream", [False, True])
def test_charges_a_chat_for_what_it_used(
    settings: Settings,
    home: Path,
    worker: processes.Process,
    key: str,
    project_id: str,
    database: Database,
    stream: bool,
) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    options = {"stream_options": {"include_usage": True}} if stream else {}
    with limited(settings.model_copy(update={"home": home}), Clock(), key_tokens_per_minute=1000) as http:
        answer = http.post("/v1/chat/completions", headers=bearer(key), json=body | options)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-ratelimit-remaining-tokens"] == "1000"
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
        spent = json.loads(lines[-1] if stream else answer.text)["usage"]["total_tokens"]
        assert spent > 7

        def left() -> int:
            asked = http.post("/v1/chat/completions", headers=bearer(key), json={})
            return int(asked.headers["x-ratelimit-remaining-tokens"])

        wait_until(lambda: left() == 1000 - spent, seconds=10)
    assert used(database, project_id) == spent


def test_charges_embeddings_for_what_they_used(
    settings: Settings, key: str, project_id: str, database: Database
) -> None:
    embedder = WordEmbedder()
    with served(settings) as http:
        parts = http.app.state.wiring  # type: ignore[attr-defined]
        answering = RetrievalWiring(
            settings=settings, database=database, storage=parts.storage, live=parts.live, embedder=lambda _: embedder
        )
        http.app.state.asking = InProcessAsking(answering)  # type: ignore[attr-defined]
        answer = http.post("/v1/embeddings", headers=bearer(key), json={"model": "words", "input": ["a b c", "d"]})
    assert answer.json()["usage"]["total_tokens"] == 4
    assert used(database, project_id) == 4


def test_counts_a_months_tokens_and_ends_at_the_quota(
    settings: Settings, database: Database, project_id: str, key: str, clock: Clock
) -> None:
    with limited(settings, clock, quota_tokens_per_month=500) as http:
        parts = http.app.state.wiring  # type: ignore[attr-defined]
        allowed = allowance(parts.settings, "k", project_id)
        for tokens in (200, 299):
            parts.meter.charge(allowed, project_id, tokens)
        wait_until(lambda: used(database, project_id) == 499, seconds=10)
        assert http.post("/v1/embeddings", headers=bearer(key), json={}).status_code == 400
        parts.meter.charge(allowed, project_id, 1)
    # closing the gateway wrote what was outstanding
    assert used(database, project_id) == 500
    with limited(settings, clock, quota_tokens_per_month=500) as http:
        refused = http.post("/v1/embeddings", headers=bearer(key), json={})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
        assert refused.json()["error"]["type"] == "insufficient_quota"
        assert refused.headers["x-should-retry"] == "false"
        assert "retry-after" not in refused.headers
        assert http.get("/v1/models", headers=bearer(key)).status_code == 200


def test_serves_while_redis_is_away_and_is_not_ready(settings: Settings, key: str) -> None:
    alone = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0", "key_requests_per_minute": 1})
    with served(alone) as http:
        assert [http.get("/v1/models", headers=bearer(key)).status_code for _ in range(3)] == [200] * 3
        ready = http.get("/readyz")
    assert (ready.status_code, ready.json()["error"]["code"]) == (503, "unavailable")
    assert ready.headers["retry-after"] == "2"
    assert "Redis is not ready" in ready.json()["error"]["message"]


def test_limits_again_when_redis_is_back(settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> int:
        raise redis.ConnectionError("away")

    monkeypatch.setattr("services.gateway.limits._AWAY_SECONDS", 0.0)
    # a logger that was used before keeps the processors of its day, which nobody captures
    monkeypatch.setattr("services.gateway.limits.log", logger("fresh"))
    one = allowance(settings.model_copy(update={"key_requests_per_minute": 1}), new_id("key_"), new_id("proj_"))

    async def ask() -> None:
        limits, headers = RateLimits(settings, clock), dict[str, str]()
        with monkeypatch.context() as patch:
            patch.setattr(limits._loop_redis, "run", away)
            for _ in range(3):
                await limits.admit(one, headers, spends_tokens=False)
        assert headers == {}
        await limits.admit(one, headers, spends_tokens=False)
        assert headers["x-ratelimit-remaining-requests"] == "0"
        with pytest.raises(RateLimited):
            await limits.admit(one, headers, spends_tokens=False)
        await limits.close()

    with capture_logs() as said:
        asyncio.run(ask())
    assert [line["event"].split(":")[0] for line in said] == ["redis is away", "redis is back"]


def used(database: Database, project_id: str) -> int:
    with database.transaction(project_id) as session:
        return int(session.scalar(sa.text("SELECT coalesce(sum(tokens), 0) FROM project_usage")) or 0)


def key_id(http: TestClient, key: str) -> str:
    return str(http.get("/v1/keys", headers=bearer(key)).json()["data"][0]["id"])
