"""The table of uploads; an upload that passed is an `adapters` row of the same id."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from shared.database import Base, TenantRow


class AdapterImport(TenantRow, Base):
    """What a client asked to take in; its state is the `jobs` row `job_id`."""

    __tablename__ = "adapter_imports"

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str]
    base_model: Mapped[str]
    weights_file: Mapped[str]
    config_file: Mapped[str]
    suffix: Mapped[str | None]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata")
    created_at: Mapped[datetime] = mapped_column(sa.TIMESTAMP(timezone=True), server_default=sa.func.now())
