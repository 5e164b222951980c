"""Prints what the door costs beside the engine, and what 200 streaming clients at once meet, as Markdown.

Run: .venv/bin/python -m tests.benchmarks.gateway_overhead [--requests 60] [--tokens 16] [--clients 200]

A real stack (gateway, Celery queue, generation worker, Postgres, Valkey) is started under a temporary home. On an idle
machine one client asks, in turns: the engine alone, in a process without a queue; the same chat over HTTP; the same
chat streamed; and what anybody would write first (bare_service.py): a Celery task around the same engine, asked from
Python, and asked over FastAPI. Added milliseconds are, request by request, the client's time minus what the engine
reports for that very request (queue + prefill + decode), so a noisy machine blurs them little.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import redis

from deploy.local import control
from deploy.local.engines import free_port
from deploy.local.layout import Layout
from services.cli.client import read_credentials
from shared.live.protocol import entries
from shared.settings import Settings
from tests.benchmarks import bare_service
from tests.benchmarks.socket_client import MODEL, QUESTION, REFUSED, Asked, Client

ROOT = Path(__file__).resolve().parents[2]
TARGET_ADDED_MS, TARGET_FIRST_MS = 5.0, 8.0
_EMPTY_TRIPS = 200


@dataclass(frozen=True)
class Engine:
    """One answer as the engine reports it."""

    first_ms: float
    total_ms: float


class Replies:
    """Reads the worker's own timings of a request off the gateway's reply stream."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url)

    def engine(self, request_id: str) -> Engine:
        for key in self._redis.scan_iter("uplift:replies:*"):
            newest = cast(Any, self._redis.xrevrange(key, count=400))
            for _, fields in entries([[key, newest]]):
                if fields[b"k"] == b"done" and fields[b"r"].decode().startswith(request_id):
                    timings = json.loads(fields[b"d"])["timings"]
                    return Engine(timings["queue_ms"] + timings["prefill_ms"], timings["total_ms"])
        raise LookupError(f"no reply to {request_id} is in Valkey")


@contextlib.contextmanager
def stack(queue_limit: int) -> Iterator[tuple[int, str, str]]:
    """The whole platform under a fresh home that borrows the pulled models; gives port, key and Valkey's address."""
    models = Settings().models_dir
    with tempfile.TemporaryDirectory(prefix="uplift-bench-") as folder:
        home = Path(folder)
        (home / "models").symlink_to(models)
        for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "DATABASE_URL", "DATABASE_ADMIN_URL", "REDIS_URL"):
            os.environ.pop(name, None)
        port = free_port()
        os.environ |= {"UPLIFT_HOME": folder, "UPLIFT_PORT": str(port)}
        # threads that spin at a barrier would starve the process that was asked: as the platform's own are told
        os.environ |= {"UPLIFT_QUEUE_LIMIT_INTERACTIVE": str(queue_limit), "OMP_WAIT_POLICY": "PASSIVE"}
        layout = Layout(home)
        control.up(layout, lambda step: print(f"<!-- {step} -->", file=sys.stderr))
        try:
            told = dict(line.split("=", 1) for line in layout.environment.read_text().splitlines())
            yield port, read_credentials(Settings())["OPENAI_API_KEY"], told["REDIS_URL"].strip("'")
        finally:
            control.down(layout)


def _engine_alone(line: Connection, folder: Path, home: Path) -> None:
    """A process of its own: for every number of tokens that it hears, first-token and total milliseconds."""
    from services.generation.answering import Delta, GenerationRequest, Sampling
    from services.generation.engine import Engine as RealEngine
    from shared.compute import ComputeShare

    @contextlib.contextmanager
    def share() -> Iterator[Any]:
        with ComputeShare(home, "generation") as own:
            yield own.threads

    engine = RealEngine(folder, share=share)
    engine.start()
    system = {"role": "system", "content": "You are a helpful assistant."}
    while tokens := line.recv():
        request = GenerationRequest(
            [system, {"role": "user", "content": QUESTION}], Sampling(temperature=0.0, max_tokens=tokens)
        )
        began, first = time.perf_counter(), 0.0
        for piece in engine.submit(request):
            first = first or (1000 * (time.perf_counter() - began) if isinstance(piece, Delta) else 0.0)
        line.send((first, 1000 * (time.perf_counter() - began)))
    engine.stop()


@contextlib.contextmanager
def engine_alone(home: Path) -> Iterator[Any]:
    """Gives a function: tokens → Engine."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_engine_alone, args=(theirs, home / "models" / MODEL, home), daemon=True)
    child.start()

    def ask(tokens: int) -> Engine:
        ours.send(tokens)
        return Engine(*ours.recv())

    yield ask
    ours.send(0)
    child.join(60)


@contextlib.contextmanager
def bare(redis_url: str, home: Path) -> Iterator[Any]:
    """Gives a function: tokens → milliseconds that the bare task, and the bare service, add to their engine's own."""
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": QUESTION}]
    # a database of Valkey's own: the platform's workers must not see these tasks
    url = redis_url.rpartition("/")[0] + "/1"
    with bare_service.running(url, home, home / "models" / MODEL) as port, bare_service.publisher(url) as publish:
        client = Client(port, "none")
        trip = statistics.median(bare_service.empty_trips(url, _EMPTY_TRIPS)[_EMPTY_TRIPS // 4 :])
        print(f"A bare Celery round trip with nothing to do and warm caches, p50 here and now: {trip:.1f} ms.\n")

        def ask(tokens: int) -> tuple[float, float]:
            trip, engine = publish(messages, tokens)
            served = client.ask(tokens, stream=False)
            assert served.complete, served.error
            assert served.engine_ms is not None
            return trip - engine, served.total_ms - served.engine_ms

        yield ask


@dataclass
class Measured:
    """Milliseconds, one entry a turn."""

    alone_total: list[float] = field(default_factory=list)
    alone_first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    added: list[float] = field(default_factory=list)
    added_first: list[float] = field(default_factory=list)
    added_stream: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    task_added: list[float] = field(default_factory=list)
    bare_added: list[float] = field(default_factory=list)


def idle(client: Client, replies: Replies, alone: Any, bare: Any, requests: int, tokens: int) -> Measured:
    """One client, one request at a time, all ways in turns."""
    found = Measured()
    for turn in range(-3, requests):
        engine = alone(tokens)
        whole = client.ask(tokens, stream=False)
        ours = replies.engine(whole.request_id)
        streamed = client.ask(tokens, stream=True)
        theirs = replies.engine(streamed.request_id)
        task_added, bare_added = bare(tokens)
        for asked in (whole, streamed):
            assert asked.complete, asked.error
            assert asked.tokens == tokens, f"{asked.tokens} tokens instead of {tokens}"
        if turn < 0:  # the first ones load the model and warm its memory
            continue
        found.alone_total.append(engine.total_ms)
        found.alone_first.append(engine.first_ms)
        found.whole.append(whole.total_ms)
        found.first.append(streamed.first_ms)
        found.added.append(whole.total_ms - ours.total_ms)
        found.added_first.append(streamed.first_ms - theirs.first_ms)
        found.added_stream.append(streamed.total_ms - theirs.total_ms)
        found.task_added.append(task_added)
        found.bare_added.append(bare_added)
    return found


def crowd(port: int, key: str, clients: int, tokens: int) -> list[Asked]:
    """Everybody at once, each on a connection of their own."""
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(lambda _: Client(port, key).ask(tokens, stream=True), range(clients)))


def idle_table(found: Measured) -> Iterator[str]:
    yield "| one client (ms) | least | p50 | p95 | target p50 |"
    yield "|---|---|---|---|---|"
    rows: list[tuple[str, Sequence[float], str]] = [
        ("engine alone, whole answer", found.alone_total, ""),
        ("over HTTP, whole answer", found.whole, ""),
        ("**added to the whole answer**", found.added, f"{TARGET_ADDED_MS:g}"),
        ("added to the whole answer, streamed", found.added_stream, ""),
        ("a bare Celery task adds", found.task_added, ""),
        ("FastAPI and a bare Celery task add", found.bare_added, ""),
        ("engine alone, first token", found.alone_first, ""),
        ("over HTTP, first token", found.first, ""),
        ("**added to the first token**", found.added_first, f"{TARGET_FIRST_MS:g}"),
    ]
    for name, values, target in rows:
        tail = statistics.quantiles(values, n=20)[18]
        yield f"| {name} | {min(values):.1f} | {statistics.median(values):.1f} | {tail:.1f} | {target} |"


def crowd_table(found: list[Asked], tokens: int, seconds: float) -> Iterator[str]:
    accepted = [one for one in found if one.status == 200]
    refused = [one for one in found if one.status == REFUSED]
    whole = [one for one in accepted if one.complete and one.tokens == tokens and not one.error]
    yield f"| {len(found)} streaming clients at once | count |"
    yield "|---|---|"
    yield f"| accepted | {len(accepted)} |"
    yield f"| … of these ended with [DONE] and all {tokens} tokens | {len(whole)} |"
    yield f"| refused with 429 | {len(refused)} |"
    yield f"| … of these with Retry-After | {sum((one.retry_after or '').isdigit() for one in refused)} |"
    yield f"| anything else | {len(found) - len(accepted) - len(refused)} |"
    yield ""
    yield (
        f"{seconds:.1f} s in all, {sum(one.tokens for one in whole) / seconds:.0f} tokens/s; first token p50 "
        f"{statistics.median([one.first_ms for one in whole] or [0]) / 1000:.1f} s."
    )
    odd = Counter((one.status, one.error[:200]) for one in found if one not in whole and one not in refused)
    yield from (f"odd: {what} × {count}" for what, count in odd.items())


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--requests", type=int, default=60, help="turns of the idle measurement")
    options.add_argument("--runs", type=int, default=3, help="how often the idle measurement is made")
    options.add_argument("--tokens", type=int, default=16, help="length of every answer")
    options.add_argument("--clients", type=int, default=200, help="streaming clients at once; 0 leaves them out")
    options.add_argument("--queue-limit", type=int, default=32, help="UPLIFT_QUEUE_LIMIT_INTERACTIVE of the stack")
    chosen = options.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, commit {commit.stdout.strip()}\n")
    ok = True
    with stack(chosen.queue_limit) as (port, key, redis_url):
        home = Path(os.environ["UPLIFT_HOME"])
        with engine_alone(home) as alone, bare(redis_url, home) as bare_ask:
            for run in range(chosen.runs if chosen.requests else 0):
                found = idle(Client(port, key), Replies(redis_url), alone, bare_ask, chosen.requests, chosen.tokens)
                busy = f"{os.getloadavg()[0]:.1f} processes wanted a core on average"
                print(f"Run {run + 1} of {chosen.runs}, {chosen.requests} turns of {chosen.tokens} tokens; {busy}:\n")
                print("\n".join(idle_table(found)), end="\n\n", flush=True)
        if chosen.clients:
            began = time.perf_counter()
            met = crowd(port, key, chosen.clients, chosen.tokens)
            print("\n".join(crowd_table(met, chosen.tokens, time.perf_counter() - began)), flush=True)
            ok = all(
                (one.complete and one.tokens == chosen.tokens) if one.status == 200 else bool(one.retry_after)
                for one in met
            )
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
