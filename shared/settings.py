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
    purge_seconds: float = 60.0
    """How often at most a project's expired files and uploads are deleted; they are out of sight at once."""
    queue_limit_interactive: int = 256
    queue_limit_batch: int = 512
    """Waiting live requests per queue; one more answers 429 with Retry-After."""
    database_pool: int = 8
    compute_threads: Annotated[int, Field(ge=1)] | None = None
    """Threads that every heavy worker computes with, instead of what is free just then: sums are then equal to the bit
    from run to run."""
    log_level: str = "INFO"
    allowed_hosts: list[str] = ["127.0.0.1", "localhost", "::1"]

    cors_origins: list[str] = []
    """Origins whose pages may call the API from a browser, such as ["https://app.example.com"]; empty: none."""

    key_requests_per_minute: int = 60_000
    key_tokens_per_minute: int = 20_000_000
    project_requests_per_minute: int = 120_000
    project_tokens_per_minute: int = 40_000_000
    quota_tokens_per_month: int = 0
    quota_stored_bytes: int = 200 * 2**30
    quota_training_jobs_per_day: int = 2_000
    quota_training_jobs_at_once: int = 200
    """Rate limits and quotas; 0 turns one off. A row of project_quotas replaces a project's."""

    max_json_bytes: int = 16 * 2**20
    """The most that a request's JSON body may weigh; it is held in memory."""
    max_json_depth: int = 64
    max_upload_bytes: int = 512 * 2**20
    """The most that one uploaded file may weigh; it spools to disk."""

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
