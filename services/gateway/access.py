"""Authentication and host checks: on by default, on loopback too."""

from urllib.parse import urlsplit

import sqlalchemy as sa
from fastapi import Request

from services.gateway.keys import hash_key
from shared.errors import Forbidden, Unauthorized
from shared.web import Caller
from shared.wiring import Wiring


class WrongHost(Forbidden):
    code = "wrong_host"


def api_key_access(request: Request, wiring: Wiring) -> Caller:
    """The caller of `Authorization: Bearer sk-uplift-…`, looked up by the key's hash.

    Raises WrongHost for a Host or Origin that is not ours (a web page that rebinds its name to loopback must not
    reach a job API) and Unauthorized for anything but a live key.
    """
    check_host(request, wiring.settings.allowed_hosts)
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized(
            "Send your API key as `Authorization: Bearer sk-uplift-…`. After `uplift up` it lies in credentials.env "
            "under UPLIFT_HOME."
        )
    with wiring.database.system_transaction() as session:
        found = session.execute(
            sa.text("SELECT * FROM authenticate_key(:hash)"),
            {"hash": hash_key(key.strip(), wiring.settings.secret)},
        ).one_or_none()
    if found is None:
        raise Unauthorized("This API key is not known, was revoked or has expired.")
    return Caller(
        project_id=found.project_id,
        project_name=found.project_name,
        organisation_id=found.organisation_id,
        key_id=found.key_id,
        scopes=tuple(found.scopes),
        request_id=request.state.request_id,
    )


def check_host(request: Request, allowed: list[str]) -> None:
    """Refuse a Host or Origin header whose name is not in `allowed` ("*" allows all)."""
    if "*" in allowed:
        return
    for header, text in (
        ("Host", f"//{request.headers.get('host', '')}"),
        ("Origin", request.headers.get("origin")),
    ):
        if text is None:
            continue
        name = urlsplit(text).hostname or ""
        if name not in allowed:
            raise WrongHost(
                f"{header} {name!r} is not one of this server's names. Set UPLIFT_ALLOWED_HOSTS to a JSON list that "
                "has it."
            )
