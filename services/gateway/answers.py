"""What the gateway's own doors answer, for the API's description."""

from typing import Any, Literal

from pydantic import ConfigDict

from services.gateway.schemas import Scope
from shared.answers import Answer

_A_KEY: dict[str, Any] = {
    "id": "key_abc",
    "object": "key",
    "name": "web application",
    "hint": "sk-uplift-a1B…x9Yz",
    "scopes": ["read", "write"],
    "created_at": 1767225600,
    "expires_at": 1775001600,
    "revoked_at": None,
}


class KeyObject(Answer):
    """An API key, without its text."""

    model_config = ConfigDict(json_schema_extra={"examples": [_A_KEY]})

    id: str
    object: Literal["key"]
    name: str
    hint: str
    """The text's beginning and end."""
    scopes: list[Scope]
    created_at: int
    """Unix seconds."""
    expires_at: int | None
    """Unix seconds; null: it lives until it is revoked."""
    revoked_at: int | None
    """Unix seconds; null while it is not revoked."""


class NewKeyObject(KeyObject):
    """A new API key, with its text."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [_A_KEY | {"key": "sk-uplift-a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0x9Yz"}]}
    )

    key: str | None
    """What to send; it is never shown again: null where a repeated request (`Idempotency-Key`) is answered."""


class AuditEntryObject(Answer):
    """One request that changed something, or tried to."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "audit_abc",
                    "object": "audit_log.entry",
                    "created_at": 1767225600,
                    "key_id": _A_KEY["id"],
                    "method": "DELETE",
                    "path": "/v1/files/{file_id}",
                    "object_id": "file-abc",
                    "status": 200,
                    "request_id": "req_abc",
                }
            ]
        }
    )

    id: str
    object: Literal["audit_log.entry"]
    created_at: int
    """Unix seconds."""
    key_id: str
    method: str
    path: str
    """The route, or what was asked where there is none."""
    object_id: str | None
    """What was made, changed or deleted, as far as it is known."""
    status: int
    """The answer's HTTP status."""
    request_id: str
    """The answer's `x-request-id`."""
