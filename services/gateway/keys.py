"""Making, hashing and listing API keys; the key itself is shown once and never stored."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass

import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.orm import Session

from services.gateway.tables import ApiKey
from shared.clock import now
from shared.errors import NotFound, Unavailable
from shared.ids import new_id

PREFIX = "sk-uplift-"
SCOPES = ("read", "write", "train", "admin")


class KeyNotFound(NotFound):
    code = "key_not_found"


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


def create(session: Session, project_id: str, name: str, secret: SecretStr, scopes: tuple[str, ...] = SCOPES) -> NewKey:
    """A fresh key for the project."""
    text = PREFIX + secrets.token_urlsafe(32)
    row = ApiKey(
        id=new_id("key_"),
        project_id=project_id,
        name=name,
        key_hash=hash_key(text, secret),
        hint=f"{text[: len(PREFIX) + 3]}…{text[-4:]}",
        scopes=list(scopes),
        created_at=now(),
    )
    session.add(row)
    session.flush()
    return NewKey(row=row, text=text)


def listing(session: Session) -> list[ApiKey]:
    """The project's keys, newest first, revoked ones too."""
    return list(session.scalars(sa.select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.id)))


def revoke(session: Session, key_id: str) -> ApiKey:
    """End a key at once: the next request with it is refused."""
    row = session.get(ApiKey, key_id)
    if row is None:
        raise KeyNotFound(f"There is no key {key_id!r} in this project.", param="key_id")
    row.revoked_at = row.revoked_at or now()
    session.flush()
    return row
