"""Founds the first organisation, project and key, once: `python -m services.gateway.bootstrap`."""

import os
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.gateway import keys
from services.gateway.tables import ApiKey, Organisation, Project
from shared.database import Database
from shared.ids import new_id
from shared.settings import Settings

DEFAULT = "default"


def ensure_default_project(settings: Settings) -> None:
    """Leave a default project and, in `credentials.env`, a key of it that works; safe to run at every start."""
    database = Database(settings.database_admin_url, pool_size=1)
    try:
        with database.system_transaction() as session:
            project_id = found_project(session, organisation=DEFAULT, project=DEFAULT)
            if not _kept_key_works(session, settings):
                made = keys.create(session, project_id, "made by uplift up", settings.secret)
                _write_credentials(settings, made.text)
            else:
                _write_credentials(settings, _kept_key(settings))
    finally:
        database.close()


def found_project(session: Session, *, organisation: str, project: str) -> str:
    """The project's id; the organisation and the project are made if they are not there."""
    owner = session.scalars(sa.select(Organisation).filter_by(name=organisation)).one_or_none()
    if owner is None:
        owner = Organisation(id=new_id("org_"), name=organisation)
        session.add(owner)
        session.flush()
    found = session.scalars(sa.select(Project).filter_by(organisation_id=owner.id, name=project)).one_or_none()
    if found is None:
        found = Project(id=new_id("proj_"), organisation_id=owner.id, name=project)
        session.add(found)
        session.flush()
    return found.id


def _credentials_path(settings: Settings) -> Path:
    return settings.home / "credentials.env"


def _kept_key(settings: Settings) -> str:
    path = _credentials_path(settings)
    if not path.exists():
        return ""
    lines = dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
    return lines.get("OPENAI_API_KEY", "")


def _kept_key_works(session: Session, settings: Settings) -> bool:
    kept = _kept_key(settings)
    if not kept:
        return False
    live = sa.select(ApiKey.id).where(
        ApiKey.key_hash == keys.hash_key(kept, settings.secret),
        ApiKey.revoked_at.is_(None),
        sa.or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > sa.func.now()),
    )
    return session.scalars(live).one_or_none() is not None


def _write_credentials(settings: Settings, key: str) -> None:
    """Written whole or not at all, readable by its owner alone, ready for a shell's `source`."""
    path = _credentials_path(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".env.new")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as sink:
        sink.write(f"OPENAI_BASE_URL=http://127.0.0.1:{settings.port}/v1\nOPENAI_API_KEY={key}\n")
    partial.replace(path)


if __name__ == "__main__":
    ensure_default_project(Settings())
