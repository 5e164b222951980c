"""The public app and keys of any scopes, for tests that come in by the front door."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from fastapi.testclient import TestClient

from services.gateway import keys
from services.gateway.app import create_app
from services.gateway.scopes import SCOPES
from shared.database import Database
from shared.settings import Settings


@contextmanager
def served(settings: Settings) -> Iterator[TestClient]:
    """A client of the gateway as it is deployed; what it raises inside is answered, as for any client."""
    with TestClient(create_app(settings), base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def new_key(database: Database, settings: Settings, project_id: str, scopes: Collection[str] = SCOPES) -> str:
    """The text of a fresh key."""
    with database.transaction(project_id) as session:
        return keys.create(session, project_id, "test", settings.secret, scopes).text
