"""Every path of the embedded stack, all under one home."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Where things lie under `home` (UPLIFT_HOME)."""

    home: Path

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def state(self) -> Path:
        return self.run / "state.json"

    @property
    def lock(self) -> Path:
        return self.run / "supervisor.lock"

    @property
    def environment(self) -> Path:
        return self.run / "environment.env"

    @property
    def secrets(self) -> Path:
        return self.home / "secrets" / "secrets.json"

    @property
    def postgres(self) -> Path:
        return self.home / "postgres"

    @property
    def valkey(self) -> Path:
        return self.home / "valkey"

    def ready_marker(self, name: str) -> Path:
        return self.run / "ready" / name

    def make(self) -> None:
        """Create the folders that hold private things, private."""
        for folder in (self.home, self.run, self.logs, self.secrets.parent):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.run, self.secrets.parent):
            folder.chmod(0o700)
