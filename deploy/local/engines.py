"""Postgres and Valkey together: what `uplift up` starts first, and all that most tests need."""

import os
import shutil
import socket
from pathlib import Path

from deploy.local.child import Child
from deploy.local.credentials import load_or_make
from deploy.local.errors import DiskFull
from deploy.local.layout import Layout
from deploy.local.postgres import Postgres
from deploy.local.valkey import Valkey

NEEDED_MB = 500


class EmbeddedEngines:
    """The engines of one home. A `DATABASE_URL` or `REDIS_URL` given here replaces the engine of that kind."""

    def __init__(self, home: Path, *, database_url: str = "", admin_url: str = "", redis_url: str = "") -> None:
        self.home = home
        self.layout = Layout(home)
        self._given_database, self._given_admin, self._given_redis = database_url, admin_url, redis_url
        self._postgres: Postgres | None = None
        self._valkey: Valkey | None = None

    def start(self) -> None:
        """Start what is not given, in order; on any error what was started is stopped again."""
        self.layout.make()
        _check_disk(self.home)
        secrets = load_or_make(self.layout)
        self.secret = secrets.platform
        try:
            if not self._given_database:
                self._postgres = Postgres(self.layout, secrets, free_port())
                self._postgres.start()
            if not self._given_redis:
                self._valkey = Valkey(self.layout, secrets, free_port())
                self._valkey.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop in reverse order; Postgres last, since everything else writes to it."""
        for engine in (self._valkey, self._postgres):
            if engine is not None:
                engine.child.stop()

    @property
    def children(self) -> list[Child]:
        return [engine.child for engine in (self._postgres, self._valkey) if engine is not None]

    @property
    def database_url(self) -> str:
        return self._given_database or self._running_postgres().url("uplift")

    @property
    def admin_url(self) -> str:
        if self._given_database:
            return self._given_admin or self._given_database
        return self._running_postgres().url("uplift_owner")

    @property
    def redis_url(self) -> str:
        if self._given_redis:
            return self._given_redis
        assert self._valkey is not None, "start() first"
        return self._valkey.url

    def create_database(self, name: str) -> str:
        """One more database with the vector extension; answers its owner's URL."""
        self._running_postgres().create_database(name)
        return self._running_postgres().url("uplift_owner", name)

    def _running_postgres(self) -> Postgres:
        assert self._postgres is not None, "start() first"
        return self._postgres


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _check_disk(home: Path) -> None:
    free = shutil.disk_usage(home).free // 2**20
    if free < NEEDED_MB:
        raise DiskFull(home, free, NEEDED_MB)


def engines_from_environment(home: Path) -> EmbeddedEngines:
    """The engines that the environment's URLs leave for us to start."""
    return EmbeddedEngines(
        home,
        database_url=os.environ.get("DATABASE_URL", ""),
        admin_url=os.environ.get("DATABASE_ADMIN_URL", ""),
        redis_url=os.environ.get("REDIS_URL", ""),
    )
