"""What the reader of a reply stream does for it now and then: put off its expiry, and drop what was read."""

import time

from shared.live.protocol import STREAM_EXPIRY_SECONDS

_EVERY_SECONDS = 60.0
"""How often the expiry is put off while replies come; at every reply it would cost as much as reading it."""
_TRIM_BYTES = 4 << 20
"""Replies that were read stay in Redis up to this many bytes: answers with vectors are hundreds of kilobytes each."""


class Housekeeping:
    """Counts what was read of one stream and says which commands to send for it."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._kept_at = 0.0
        self._read_bytes = 0
        self._has_news = False

    def saw(self, fields: dict[bytes, bytes]) -> None:
        """An entry was read."""
        self._has_news = True
        self._read_bytes += sum(map(len, fields.values()))

    def due(self, last: str | bytes) -> list[tuple[str | bytes | int, ...]]:
        """The commands to send now, mostly none; `last` is the newest entry that was read, and is kept."""
        commands: list[tuple[str | bytes | int, ...]] = []
        if self._read_bytes > _TRIM_BYTES:
            commands.append(("XTRIM", self._stream, "MINID", last))
            self._read_bytes = 0
        if self._has_news and time.monotonic() - self._kept_at > _EVERY_SECONDS:
            commands.append(("EXPIRE", self._stream, STREAM_EXPIRY_SECONDS))
            self._kept_at, self._has_news = time.monotonic(), False
        return commands

    def forget(self) -> None:
        """Redis was away, and may have lost the expiry with the stream."""
        self._kept_at = 0.0
