"""Writes docs/openapi.json from the gateway's routes; `make docs` runs it and a test checks that it is up to date."""

import json
from pathlib import Path

from services.gateway.app import create_app

TARGET = Path(__file__).resolve().parent.parent / "docs" / "openapi.json"


def text() -> str:
    """The description as it should be: equal routes give equal bytes."""
    return json.dumps(create_app().openapi(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
