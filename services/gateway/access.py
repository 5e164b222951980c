"""Authentication, scopes and host checks: on by default, on loopback too."""

from dataclasses import replace
from functools import partial
from urllib.parse import urlsplit

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from services.gateway import audit, repository
from services.gateway.errors import MissingScope, WrongHost
from services.gateway.keys import hash_key
from services.gateway.limits import allowance
from services.gateway.scopes import PREFIX, changes_something, needed_scope, spends_tokens
from services.gateway.wiring import GatewayWiring
from shared.errors import Unauthorized
from shared.quotas import month_is_used
from shared.web import Caller


async def api_key_access(request: Request, wiring: GatewayWiring) -> Caller:
    """The caller of `Authorization: Bearer sk-uplift-…`, looked up by the key's hash at every request, within limits.

    Nothing is remembered between requests, so a revoked or expired key is refused at once. The look-up compares keyed
    hashes, whose bits a caller can neither choose nor learn from the time it takes.

    Raises WrongHost for a Host or Origin that is not ours (a web page that rebinds its name to loopback must not
    reach a job API), Unauthorized for anything but a live key, MissingScope where the key may not do this,
    RateLimited where it did too much in this minute, QuotaExceeded where its project did in this month.
    """
    settings = wiring.settings
    check_host(request, settings.allowed_hosts, settings.cors_origins)
    hashed = hash_key(_bearer(request), settings.secret)
    found = await wiring.database.look_up("SELECT * FROM authenticate_key($1)", hashed)
    if found is None:
        raise Unauthorized("This API key is not known, was revoked or has expired.")
    scopes, path = tuple(found.scopes), request.scope["path"].removeprefix(PREFIX)
    caller = Caller(
        project_id=found.project_id,
        project_name=found.project_name,
        organisation_id=found.organisation_id,
        key_id=found.key_id,
        scopes=scopes,
        request_id=request.state.request_id,
    )
    try:
        check_scope(request.method, path, scopes)
    except MissingScope as error:
        await run_in_threadpool(_log_refusal, request, wiring, caller, error)
        raise
    asks = spends_tokens(request.method, path)
    allowed = allowance(settings, found.key_id, found.project_id, found.requests_per_minute, found.tokens_per_minute)
    await wiring.rates.admit(allowed, request.state.answer_headers, spends_tokens=asks)
    if asks:
        check_month(found.tokens_this_month, found.tokens_per_month, settings.quota_tokens_per_month)
    return replace(caller, meter=partial(wiring.meter.charge, allowed, found.project_id))


def _log_refusal(request: Request, wiring: GatewayWiring, who: Caller, error: MissingScope) -> None:
    """What a key tried beyond its scopes is for the audit log, if it would have changed something."""
    if changes_something(request.method, request.scope["path"].removeprefix(PREFIX)):
        with wiring.database.transaction(who.project_id) as session:
            repository.add_audit_entry(session, audit.entry(who, request.scope, error.status))


def _bearer(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized(
            "Send your API key as `Authorization: Bearer sk-uplift-…`. After `uplift up` it lies in credentials.env "
            "under UPLIFT_HOME."
        )
    return key.strip()


def check_month(used: int, own: int | None, default: int) -> None:
    """Raise QuotaExceeded once the month's tokens (`own` of the project, else the default; 0: no limit) are used."""
    most = default if own is None else own
    if 0 < most <= used:
        raise month_is_used(used, most)


def check_scope(method: str, path: str, scopes: tuple[str, ...]) -> None:
    """Raise MissingScope, naming it, unless `scopes` allow this method on this path."""
    scope = needed_scope(method, path)
    if scope not in scopes:
        raise MissingScope(
            f"{method} {PREFIX}{path} needs a key with the scope {scope}; this key has "
            f"{', '.join(scopes) or 'none'}. A key with the scope admin can make one: POST /v1/keys."
        )


def check_host(request: Request, allowed: list[str], cors_origins: list[str]) -> None:
    """Refuse a Host or Origin header whose name is not in `allowed` ("*" allows all) and no page we let in."""
    if "*" in allowed:
        return
    for header, text in (
        ("Host", f"//{request.headers.get('host', '')}"),
        ("Origin", request.headers.get("origin")),
    ):
        if text is None or (header == "Origin" and text in cors_origins):
            continue
        name = _name(text)
        if name not in allowed:
            raise WrongHost(
                f"{header} {name!r} is not one of this server's names. Set UPLIFT_ALLOWED_HOSTS to a JSON list that "
                "has it."
            )


def _name(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:  # brackets that hold no address
        return ""
