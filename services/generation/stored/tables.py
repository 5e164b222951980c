"""Answers that are kept, each with the messages it answers."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from shared.database import Base, TenantRow

_MOMENT = sa.TIMESTAMP(timezone=True)


class StoredCompletion(TenantRow, Base):
    """One answered request."""

    __tablename__ = "stored_completions"

    id: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str]
    """As the request named it."""
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata")
    completion: Mapped[str]
    """OpenAI's object, without its metadata, as JSON text: jsonb could not hold every string that JSON can."""
    messages: Mapped[str] = mapped_column(deferred=True)
    """`[{role, content}]` as JSON text, as they were sent; read only by who asks for them."""
    bytes: Mapped[int] = mapped_column(sa.BigInteger)
    """What counts against the project's storage: the two texts and the metadata."""
    created_at: Mapped[datetime] = mapped_column(_MOMENT, server_default=sa.func.now())
    expires_at: Mapped[datetime | None] = mapped_column(_MOMENT)
    """From then on nobody sees it; None keeps it until it is deleted."""
