"""What a process is wired with; services subclass it to add their specialists, tests hand in their own."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shared.database import Database
from shared.settings import Settings
from shared.storage import Storage

if TYPE_CHECKING:
    from shared.live import LiveClient


@dataclass
class Wiring:
    """The parts that handlers receive. `live` is None only where a test needs no live requests."""

    settings: Settings
    database: Database
    storage: Storage
    live: "LiveClient" = field(repr=False)

    @classmethod
    def from_settings(cls, settings: Settings, **specialists: Any) -> "Wiring":
        """Connect the standard parts; `specialists` are the subclass's own fields."""
        from shared.live import LiveClient

        return cls(
            settings=settings,
            database=Database(settings.database_url, pool_size=settings.database_pool),
            storage=Storage(settings.blob_url, cache=settings.home / "cache" / "blobs"),
            live=LiveClient(settings),
            **specialists,
        )

    def close(self) -> None:
        self.live.close()
        self.database.close()

    async def aclose(self) -> None:
        """`close` within the event loop of an app."""
        self.database.close_look_ups()  # the loop watches their sockets, and no other thread may touch it
        await asyncio.to_thread(self.close)
