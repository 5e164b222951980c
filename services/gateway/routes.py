"""The gateway's own door: API keys of the caller's project."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from services.gateway import keys
from services.gateway.tables import ApiKey
from shared.clock import unix
from shared.errors import Forbidden
from shared.web import Caller, caller, page, wiring
from shared.wiring import Wiring

router = APIRouter(prefix="/keys", tags=["keys"])
Who = Annotated[Caller, Depends(caller)]
Parts = Annotated[Wiring, Depends(wiring)]


class CreateKey(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=200)]


@router.post("")
def create_key(body: CreateKey, who: Who, parts: Parts) -> dict[str, Any]:
    """A new key; `key` is shown in this answer and never again."""
    _require_admin(who)
    with parts.database.transaction(who.project_id) as session:
        made = keys.create(session, who.project_id, body.name, parts.settings.secret)
        return key_object(made.row) | {"key": made.text}


@router.get("")
def list_keys(who: Who, parts: Parts) -> dict[str, Any]:
    """The project's keys, by their hints."""
    with parts.database.transaction(who.project_id) as session:
        return page([key_object(row) for row in keys.listing(session)], has_more=False)


@router.delete("/{key_id}")
def revoke_key(key_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Revoke at once."""
    _require_admin(who)
    with parts.database.transaction(who.project_id) as session:
        return key_object(keys.revoke(session, key_id))


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


def _require_admin(who: Caller) -> None:
    if "admin" not in who.scopes:
        raise Forbidden("This needs a key with the scope admin.")
