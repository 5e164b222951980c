"""The gateway's own doors: the API keys and the audit log of the caller's project."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query

from services.gateway import keys, repository
from services.gateway.answers import AuditEntryObject, KeyObject, NewKeyObject
from services.gateway.audit import entry_object
from services.gateway.schemas import CreateKey, key_object
from shared.answers import Page, answering
from shared.web import Caller, caller, page, wiring
from shared.wiring import Wiring

router = APIRouter(tags=["access"])
Who = Annotated[Caller, Depends(caller)]
Parts = Annotated[Wiring, Depends(wiring)]
Limit = Annotated[int, Query(ge=1, le=100)]


@router.post("/keys", responses=answering(NewKeyObject))
def create_key(body: CreateKey, who: Who, parts: Parts) -> dict[str, Any]:
    """A new key; `key` is shown in this answer and never again.

    A key hands out no scope that it has not itself, and no life beyond its own end.
    """
    scopes = who.scopes if body.scopes is None else body.scopes
    keys.refuse_to_hand_out(scopes, who.scopes)
    wanted = body.expiry()
    with parts.database.transaction(who.project_id) as session:
        expires_at = keys.expiry_within(wanted, keys.get(session, who.key_id).expires_at)
        made = keys.create(session, who.project_id, body.name, parts.settings.secret, scopes, expires_at=expires_at)
        return key_object(made.row) | {"key": made.text}


@router.get("/keys", responses=answering(Page[KeyObject]))
def list_keys(who: Who, parts: Parts, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
    """The project's keys by their hints, newest first, revoked ones too."""
    with parts.database.transaction(who.project_id) as session:
        found, more = keys.listing(session, after=after, limit=limit)
        return page([key_object(row) for row in found], has_more=more)


@router.get("/keys/{key_id}", responses=answering(KeyObject))
def show_key(key_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """One key by its id; its text is shown only when it is made."""
    with parts.database.transaction(who.project_id) as session:
        return key_object(keys.get(session, key_id))


@router.delete("/keys/{key_id}", responses=answering(KeyObject))
def revoke_key(key_id: str, who: Who, parts: Parts) -> dict[str, Any]:
    """Revoke at once: the next request with it is refused."""
    with parts.database.transaction(who.project_id) as session:
        return key_object(keys.revoke(session, key_id))


@router.get("/audit_log", responses=answering(Page[AuditEntryObject]))
def list_audit_log(
    who: Who, parts: Parts, after: str | None = None, limit: Limit = 20, order: Literal["asc", "desc"] = "desc"
) -> dict[str, Any]:
    """Every request that changed something or tried to: which key, what, how it ended. Nobody can change an entry."""
    with parts.database.transaction(who.project_id) as session:
        found, more = repository.audit_entries(session, after=after, limit=limit, descending=order == "desc")
        return page([entry_object(row) for row in found], has_more=more)
