"""Rate limits per key and per project: requests and tokens per minute, counted in Redis through `limits`.

A window is a minute of the clock, so that its end is known without asking Redis. Tokens are known only after an
answer: a request is let in while the minute's tokens are not used up, and charged when its answer is there.
"""

import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import redis
from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage

from services.gateway.errors import RateLimited
from shared.settings import Settings
from shared.telemetry import logger

log = logger(__name__)
T = TypeVar("T")
_WINDOW_SECONDS = 60
_AWAY_SECONDS = 5.0
"""How long Redis is left alone after it did not answer, so that its absence costs no request a timeout."""
_TIMEOUT_SECONDS = 0.5


@dataclass(frozen=True)
class Bucket:
    """One counter: how many of `unit` ("requests", "tokens") its `owner` ("key", "project") may use in a minute."""

    owner: str
    owner_id: str
    unit: str
    limit: int


@dataclass(frozen=True)
class Allowance:
    """What one key of one project may use in a minute; 0 is no limit."""

    buckets: tuple[Bucket, ...]

    def of(self, unit: str) -> list[Bucket]:
        return [bucket for bucket in self.buckets if bucket.unit == unit and bucket.limit > 0]


def allowance(
    settings: Settings, key_id: str, project_id: str, requests: int | None = None, tokens: int | None = None
) -> Allowance:
    """The settings' limits; `requests` and `tokens` are the project's own, where it has some."""
    of_project = settings.project_requests_per_minute if requests is None else requests
    of_project_tokens = settings.project_tokens_per_minute if tokens is None else tokens
    return Allowance(
        (
            Bucket("key", key_id, "requests", settings.key_requests_per_minute),
            Bucket("project", project_id, "requests", of_project),
            Bucket("key", key_id, "tokens", settings.key_tokens_per_minute),
            Bucket("project", project_id, "tokens", of_project_tokens),
        )
    )


class RateLimits:
    """Counts in Redis; while Redis is away nothing is limited (/readyz says so) and one line is logged."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        # a pool of its own: the timeouts are those of a request that can do without the answer
        pool = redis.ConnectionPool.from_url(
            settings.redis_url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS
        )
        self._storage = _storage(settings.redis_url, pool)
        self._pool = pool
        self._clock = clock
        self._away_until = 0.0
        self._away = False

    def admit(self, allowed: Allowance, headers: MutableMapping[str, str], *, spends_tokens: bool) -> None:
        """Count one request and put OpenAI's `x-ratelimit-*` into `headers`; raises RateLimited."""
        self._check("requests", allowed.of("requests"), partial(self._add, 1), 0, headers)
        if spends_tokens:
            self._check("tokens", allowed.of("tokens"), self._used, 1, headers)

    def charge(self, allowed: Allowance, tokens: int) -> None:
        """Count the tokens of an answer."""
        for bucket in allowed.of("tokens"):
            self._ask(partial(self._add, tokens, bucket))

    def close(self) -> None:
        self._pool.disconnect()

    def _check(
        self,
        unit: str,
        buckets: list[Bucket],
        use: Callable[[Bucket], int],
        least: int,
        headers: MutableMapping[str, str],
    ) -> None:
        """Raise RateLimited unless `least` are left of every bucket; the headers tell of the tightest."""
        tightest: tuple[int, Bucket] | None = None
        reset = _WINDOW_SECONDS - self._clock() % _WINDOW_SECONDS
        for bucket in buckets:
            used = self._ask(partial(use, bucket))
            if used is None:
                return
            left = bucket.limit - used
            if tightest is None or left < tightest[0]:
                tightest = (left, bucket)
                headers[f"x-ratelimit-limit-{unit}"] = str(bucket.limit)
                headers[f"x-ratelimit-remaining-{unit}"] = str(max(0, left))
                headers[f"x-ratelimit-reset-{unit}"] = duration(reset)
            if left < least:
                raise RateLimited(
                    f"This {bucket.owner} may use {bucket.limit} {unit} a minute and has used them. "
                    f"Try again in {duration(reset)}.",
                    retry_after=max(1, int(reset) + 1),
                )

    def _add(self, amount: int, bucket: Bucket) -> int:
        return int(self._storage.incr(self._key(bucket), 2 * _WINDOW_SECONDS, amount))

    def _used(self, bucket: Bucket) -> int:
        return int(self._storage.get(self._key(bucket)))

    def _key(self, bucket: Bucket) -> str:
        minute = str(int(self._clock()) // _WINDOW_SECONDS)
        item = RateLimitItemPerMinute(max(1, bucket.limit), namespace="uplift")
        return str(item.key_for(bucket.owner, bucket.owner_id, bucket.unit, minute))

    def _ask(self, question: Callable[[], T]) -> T | None:
        """Redis' answer, or None while it is away."""
        if time.monotonic() < self._away_until:
            return None
        try:
            found = question()
        except (redis.RedisError, OSError) as error:
            if not self._away:
                log.error("redis is away: requests are served without rate limits", error=str(error))
            self._away, self._away_until = True, time.monotonic() + _AWAY_SECONDS
            return None
        if self._away:
            log.info("redis is back: rate limits hold again")
            self._away = False
        return found


def duration(seconds: float) -> str:
    """As OpenAI spells it: "120ms", "1s", "6m0s", rounded up."""
    if seconds < 1:
        return f"{max(1, int(1000 * seconds))}ms"
    whole = int(seconds) + (seconds % 1 > 0)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours}h{minutes}m{whole % 60}s"
    return f"{minutes}m{whole % 60}s" if minutes else f"{whole}s"


def _storage(url: str, pool: redis.ConnectionPool) -> RedisStorage:
    return RedisStorage(url, connection_pool=pool, key_prefix="uplift:limits")
