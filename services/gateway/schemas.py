"""What comes in at the gateway's own doors, and the objects that go out."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from services.gateway.errors import InvalidExpiry
from services.gateway.tables import ApiKey
from shared.body import Body
from shared.clock import now, unix

_LATEST = 253402300799  # the year 9999, where dates end
Scope = Literal["read", "write", "train", "admin"]


class CreateKey(Body):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "web application", "scopes": ["read", "write"], "expires_in_seconds": 7776000}]
        },
    )

    name: Annotated[str, Field(min_length=1, max_length=200, description="What the key is for.")]
    scopes: Annotated[
        list[Scope] | None,
        Field(
            min_length=1,
            description="read looks, write changes and asks models, train starts and steers training, "
            "exports, imports of adapters, experiments and evaluations, "
            "admin makes keys and reads the audit log; none implies another. Left out: those of the key in use.",
        ),
    ] = None
    expires_at: Annotated[
        int | None,
        Field(ge=0, le=_LATEST, description="When the key ends, in unix seconds; left out: with the key in use."),
    ] = None
    expires_in_seconds: Annotated[
        int | None, Field(ge=1, le=100 * 366 * 86400, description="The same, counted from now.")
    ] = None

    def expiry(self) -> datetime | None:
        """When the key ends; raises InvalidExpiry for both spellings at once or a moment that has passed."""
        if self.expires_in_seconds is not None:
            if self.expires_at is not None:
                raise InvalidExpiry("Send expires_at or expires_in_seconds, not both.", param="expires_in_seconds")
            return now() + timedelta(seconds=self.expires_in_seconds)
        if self.expires_at is None:
            return None
        moment = datetime.fromtimestamp(self.expires_at, UTC)
        if moment <= now():
            raise InvalidExpiry(f"expires_at is {moment.isoformat()}, which has passed.", param="expires_at")
        return moment


def key_object(row: ApiKey) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "key",
        "name": row.name,
        "hint": row.hint,
        "scopes": row.scopes,
        "created_at": unix(row.created_at),
        "expires_at": unix(row.expires_at),
        "revoked_at": unix(row.revoked_at),
    }
