"""Rate limits per key and per project: requests and tokens per minute, counted in Redis.

A window is a minute of the clock, so that its end is known without asking Redis. Tokens are known only after an
answer: a request is let in while the minute's tokens are not used up, and charged when its answer is there.

All counters of a request are asked in one trip by one script; a library for rate limits makes a trip per counter,
which every request would wait for (docs/benchmarks.md).
"""

import time
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, cast

import redis

from services.gateway.errors import RateLimited
from shared.loop_redis import LoopRedis, Script
from shared.settings import Settings
from shared.telemetry import logger

log = logger(__name__)
_WINDOW_SECONDS = 60
_AWAY_SECONDS = 5.0
"""How long Redis is left alone after it did not answer, so that its absence costs no request a timeout."""
_TIMEOUT_SECONDS = 0.5
_COUNT = Script("""
local found = {}
for i, key in ipairs(KEYS) do
  local amount, most = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  if amount > 0 then
    found[i] = redis.call('INCRBY', key, amount)
    if found[i] == amount then redis.call('EXPIRE', key, ARGV[1]) end
  else
    found[i] = tonumber(redis.call('GET', key) or '0')
  end
  if found[i] > most then break end
end
return found
""")
"""Adds to counters in turn (an amount of 0 only reads) and answers their values, up to the first one past its most:
what comes after a refusal is not counted."""
_UNLIMITED = 2**53


@dataclass(frozen=True)
class Bucket:
    """One counter: how many of `unit` ("requests", "tokens") its `owner` ("key", "project") may use in a minute."""

    owner: str
    owner_id: str
    unit: str
    limit: int


@dataclass(frozen=True)
class Step:
    """Add `amount` to a bucket's counter (0: only look); past `most` the request is refused."""

    bucket: Bucket
    amount: int
    most: int


@dataclass(frozen=True)
class Allowance:
    """What one key of one project may use in a minute; 0 is no limit."""

    buckets: tuple[Bucket, ...]

    def of(self, unit: str) -> list[Bucket]:
        return [bucket for bucket in self.buckets if bucket.unit == unit and bucket.limit > 0]

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """What lets a request in that uses no tokens."""
        return tuple(Step(bucket, amount=1, most=bucket.limit) for bucket in self.of("requests"))

    @cached_property
    def steps_with_tokens(self) -> tuple[Step, ...]:
        """What lets a request in that uses tokens: at least one must be left."""
        return self.steps + tuple(Step(bucket, amount=0, most=bucket.limit - 1) for bucket in self.of("tokens"))


def allowance(
    settings: Settings, key_id: str, project_id: str, requests: int | None = None, tokens: int | None = None
) -> Allowance:
    """The settings' limits; `requests` and `tokens` are the project's own, where it has some."""
    of_project = settings.project_requests_per_minute if requests is None else requests
    of_project_tokens = settings.project_tokens_per_minute if tokens is None else tokens
    return _allowance(
        key_id,
        project_id,
        (settings.key_requests_per_minute, of_project),
        (settings.key_tokens_per_minute, of_project_tokens),
    )


@lru_cache(maxsize=4096)
def _allowance(key_id: str, project_id: str, requests: tuple[int, int], tokens: tuple[int, int]) -> Allowance:
    """Of the key and of the project. Most requests come with a key that came before: its steps are laid out already."""
    return Allowance(
        tuple(
            Bucket(owner, owner_id, unit, limit)
            for unit, limits in (("requests", requests), ("tokens", tokens))
            for owner, owner_id, limit in zip(("key", "project"), (key_id, project_id), limits, strict=True)
        )
    )


class RateLimits:
    """Counts in Redis; while Redis is away nothing is limited (/readyz says so) and one line is logged.

    Requests are let in on the event loop, tokens charged on the meter's thread: each has a client of its own kind.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        # clients of its own: the timeouts are those of a request that can do without the answer
        timeouts: dict[str, Any] = {"socket_timeout": _TIMEOUT_SECONDS, "socket_connect_timeout": _TIMEOUT_SECONDS}
        self._redis = redis.Redis.from_url(settings.redis_url, **timeouts)
        self._loop_redis = LoopRedis(settings.redis_url, patience=_TIMEOUT_SECONDS)
        self._count = self._redis.register_script(_COUNT.text)
        self._clock = clock
        self._away_until = 0.0
        self._away = False

    async def admit(self, allowed: Allowance, headers: MutableMapping[str, str], *, spends_tokens: bool) -> None:
        """Count one request and put OpenAI's `x-ratelimit-*` into `headers`; raises RateLimited."""
        steps = allowed.steps_with_tokens if spends_tokens else allowed.steps
        reset = _WINDOW_SECONDS - self._clock() % _WINDOW_SECONDS
        tightest: dict[str, int] = {}
        # shorter than the steps where one was refused, or Redis is away
        for step, used in zip(steps, await self._take(steps), strict=False):
            bucket, left = step.bucket, step.bucket.limit - used
            if left < tightest.get(bucket.unit, bucket.limit + 1):
                tightest[bucket.unit] = left
                headers[f"x-ratelimit-limit-{bucket.unit}"] = str(bucket.limit)
                headers[f"x-ratelimit-remaining-{bucket.unit}"] = str(max(0, left))
                headers[f"x-ratelimit-reset-{bucket.unit}"] = duration(reset)
            if used > step.most:
                raise RateLimited(
                    f"This {bucket.owner} may use {bucket.limit} {bucket.unit} a minute and has used them. "
                    f"Try again in {duration(reset)}.",
                    retry_after=max(1, int(reset) + 1),
                )

    def charge(self, allowed: Allowance, tokens: int) -> None:
        """Count the tokens of an answer, past the limit too: they were spent."""
        steps = [Step(bucket, amount=tokens, most=_UNLIMITED) for bucket in allowed.of("tokens")]
        if not steps or time.monotonic() < self._away_until:
            return
        keys, arguments = self._counting(steps)
        try:
            self._count(keys=keys, args=arguments)
        except (redis.RedisError, OSError) as error:
            self._note_absence(error)
        else:
            self._note_presence()

    async def close(self) -> None:
        self._redis.close()
        await self._loop_redis.aclose()

    async def _take(self, steps: Sequence[Step]) -> list[int]:
        """The counters after the steps, up to the first that went past its most; nothing while Redis is away."""
        if not steps or time.monotonic() < self._away_until:
            return []
        try:
            found = await self._loop_redis.run(_COUNT, *self._counting(steps))
        except (redis.RedisError, OSError) as error:
            self._note_absence(error)
            return []
        self._note_presence()
        return cast(list[int], found)

    def _note_absence(self, error: Exception) -> None:
        """An event to tell of, never an error of the request."""
        if not self._away:
            log.error("redis is away: requests are served without rate limits", error=str(error))
        self._away, self._away_until = True, time.monotonic() + _AWAY_SECONDS

    def _note_presence(self) -> None:
        if self._away:
            log.info("redis is back: rate limits hold again")
            self._away = False

    def _counting(self, steps: Sequence[Step]) -> tuple[list[str], list[int]]:
        """The keys and arguments of the script."""
        minute = int(self._clock()) // _WINDOW_SECONDS
        keys, arguments = [], [2 * _WINDOW_SECONDS]
        for step in steps:
            bucket = step.bucket
            keys.append(f"uplift:limits:{bucket.owner}:{bucket.owner_id}:{bucket.unit}:{minute}")
            arguments += (step.amount, step.most)
        return keys, arguments


def duration(seconds: float) -> str:
    """As OpenAI spells it: "120ms", "1s", "6m0s", rounded up."""
    if seconds < 1:
        return f"{max(1, int(1000 * seconds))}ms"
    whole = int(seconds) + (seconds % 1 > 0)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours}h{minutes}m{whole % 60}s"
    return f"{minutes}m{whole % 60}s" if minutes else f"{whole}s"
