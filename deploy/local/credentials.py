"""The stack's own passwords: made once with `secrets`, kept in one file that only its owner reads."""

import json
import os
import secrets
from dataclasses import asdict, dataclass

from deploy.local.layout import Layout


@dataclass(frozen=True)
class Secrets:
    """Passwords of the engines and the key that hashes API keys."""

    postgres_superuser: str
    postgres_owner: str
    postgres_app: str
    valkey: str
    platform: str


def load_or_make(layout: Layout) -> Secrets:
    """The home's secrets; made at the first start."""
    if layout.secrets.exists():
        return Secrets(**json.loads(layout.secrets.read_text()))
    made = Secrets(*(secrets.token_urlsafe(24) for _ in range(5)))
    write_private(layout.secrets, json.dumps(asdict(made), indent=2) + "\n")
    return made


def write_private(path: os.PathLike[str], text: str) -> None:
    """Write a file of mode 0600, whole or not at all."""
    partial = f"{os.fspath(path)}.new"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as sink:
        sink.write(text)
        sink.flush()
        os.fsync(sink.fileno())
    os.replace(partial, path)  # noqa: PTH105  (path may be any path-like)
