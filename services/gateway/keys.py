"""Making, hashing and listing API keys; the key itself is shown once and never stored."""

import hashlib
import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.orm import Session

from services.gateway.errors import ExpiryBeyondOwn, KeyNotFound, MissingScope
from services.gateway.scopes import SCOPES
from services.gateway.tables import ApiKey
from shared.clock import now
from shared.errors import Unavailable
from shared.ids import new_id

PREFIX = "sk-uplift-"


@dataclass(frozen=True)
class NewKey:
    """A key at its birth: the only moment at which its text is known."""

    row: ApiKey
    text: str


def hash_key(text: str, secret: SecretStr) -> str:
    """HMAC-SHA256 under the platform's secret (hex): a stolen table of hashes is worth nothing without it."""
    if not secret.get_secret_value():
        raise Unavailable("UPLIFT_SECRET is not set; without it API keys cannot be checked. `uplift up` sets it.")
    return hmac.new(secret.get_secret_value().encode(), text.encode(), hashlib.sha256).hexdigest()


def create(
    session: Session,
    project_id: str,
    name: str,
    secret: SecretStr,
    scopes: Collection[str] = SCOPES,
    *,
    expires_at: datetime | None = None,
) -> NewKey:
    """A fresh key for the project; without an expiry it lives until it is revoked."""
    text = PREFIX + secrets.token_urlsafe(32)
    row = ApiKey(
        id=new_id("key_"),
        project_id=project_id,
        name=name,
        key_hash=hash_key(text, secret),
        hint=f"{text[: len(PREFIX) + 3]}…{text[-4:]}",
        scopes=[scope for scope in SCOPES if scope in scopes],
        expires_at=expires_at,
        created_at=now(),
    )
    session.add(row)
    session.flush()
    return NewKey(row=row, text=text)


def refuse_to_hand_out(wanted: Collection[str], own: Collection[str]) -> None:
    """Raise MissingScope for a scope that the key in use has not itself."""
    beyond = [scope for scope in wanted if scope not in own]
    if beyond:
        raise MissingScope(
            f"This key cannot hand out {', '.join(beyond)}: it has only {', '.join(own)} itself.", param="scopes"
        )


def expiry_within(wanted: datetime | None, own: datetime | None) -> datetime | None:
    """When a new key ends: as wanted, else with the key in use. Raises ExpiryBeyondOwn for a moment after that one."""
    if wanted is not None and own is not None and wanted > own:
        raise ExpiryBeyondOwn(
            f"This key cannot hand out one that lives until {wanted.isoformat()}: it ends itself at {own.isoformat()}.",
            param="expires_at",
        )
    return own if wanted is None else wanted


def get(session: Session, key_id: str) -> ApiKey:
    """The project's key, or KeyNotFound."""
    row = session.get(ApiKey, key_id)
    if row is None:
        raise KeyNotFound(f"There is no key {key_id!r} in this project.", param="key_id")
    return row


def listing(session: Session, *, after: str | None = None, limit: int = 100) -> tuple[list[ApiKey], bool]:
    """The project's keys, newest first, revoked ones too; the flag says whether more follow."""
    order = (ApiKey.created_at, ApiKey.id)
    query = sa.select(ApiKey).order_by(*(column.desc() for column in order)).limit(limit + 1)
    if after is not None:
        last = get(session, after)
        query = query.where(sa.tuple_(*order) < sa.tuple_(last.created_at, last.id))
    found = list(session.scalars(query))
    return found[:limit], len(found) > limit


def revoke(session: Session, key_id: str) -> ApiKey:
    """End a key at once: the next request with it is refused."""
    row = get(session, key_id)
    row.revoked_at = row.revoked_at or now()
    session.flush()
    return row
