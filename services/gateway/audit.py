"""The audit log's entries: who changed what, how it ended; written by the door, never changed by anybody."""

import json
from typing import Any

from starlette.types import Scope

from services.gateway.scopes import PREFIX
from services.gateway.tables import AuditEntry
from shared.clock import unix
from shared.ids import new_id
from shared.web import Caller

_LONGEST_PATH = 300


def entry(who: Caller, scope: Scope, status: int, body: bytes = b"") -> AuditEntry:
    """The entry of one request; `body` is its answer, which names the object that was made."""
    return AuditEntry(
        id=new_id("audit_"),
        project_id=who.project_id,
        key_id=who.key_id,
        method=scope["method"],
        path=template(scope) or scope["path"][:_LONGEST_PATH],
        object_id=_object_id(scope, status, body),
        status=status,
        request_id=who.request_id,
    )


def template(scope: Scope) -> str | None:
    """The route's path with its parameters' names, such as /v1/files/{file_id}; None if no route was found."""
    route = scope.get("route")
    if route is None:
        return None
    # a route knows the path of its own router, not the prefix under which that is mounted
    path = str(route.path)
    return path if path.startswith(PREFIX) else PREFIX.rstrip("/") + path


def _object_id(scope: Scope, status: int, body: bytes) -> str | None:
    if status < 300 and body.startswith(b"{"):
        try:
            found = json.loads(body).get("id")
        except ValueError:
            found = None
        if isinstance(found, str):
            return found
    named = list(scope.get("path_params", {}).values())
    return str(named[-1]) if named else None


def entry_object(row: AuditEntry) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "audit_log.entry",
        "created_at": unix(row.created_at),
        "key_id": row.key_id,
        "method": row.method,
        "path": row.path,
        "object_id": row.object_id,
        "status": row.status,
        "request_id": row.request_id,
    }
