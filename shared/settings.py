"""The settings that every process reads from its environment; services add their own by subclassing."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Environment variables are `UPLIFT_<FIELD>`, except the three URLs that every platform calls the same."""

    model_config = SettingsConfigDict(env_prefix="UPLIFT_", populate_by_name=True, extra="ignore")

    home: Path = Path(".uplift")
    port: int = 8000
    database_url: Annotated[str, Field(validation_alias="DATABASE_URL")] = ""
    """The application's login, a member of `uplift_app`: never a superuser, never the tables' owner."""
    database_admin_url: Annotated[str, Field(validation_alias="DATABASE_ADMIN_URL")] = ""
    """The schema's owner; only migrations and the bootstrap of the first project use it."""
    redis_url: Annotated[str, Field(validation_alias="REDIS_URL")] = ""
    secret: SecretStr = SecretStr("")
    """Keys the hash of API keys and the internal token between services."""
    storage_url: str = ""
    """Where blobs lie: any fsspec URL; empty means the folder `blobs` under the home."""

    lease_seconds: float = 60.0
    heartbeat_seconds: float = 10.0
    reconcile_seconds: float = 3.0
    """How often the leader looks for expired leases and unclaimed jobs."""
    unclaimed_seconds: float = 10.0
    """A queued job whose wake-up is older than this is published again (a wiped Redis loses wake-ups, not jobs)."""
    queue_limit_interactive: int = 256
    queue_limit_batch: int = 512
    """Waiting live requests per queue; one more answers 429 with Retry-After."""
    database_pool: int = 8
    log_level: str = "INFO"
    allowed_hosts: list[str] = ["127.0.0.1", "localhost", "::1"]

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    @property
    def models_dir(self) -> Path:
        return self.home / "models"

    @property
    def blob_url(self) -> str:
        return self.storage_url or f"file://{self.home / 'blobs'}"
