"""Identifiers: a readable prefix that names the kind, then 120 random bits."""

import base64
import secrets


def new_id(prefix: str) -> str:
    """A fresh id such as ``ds_4zv…``: URL-safe, lower case, unguessable (and still never an authorisation)."""
    return prefix + base64.b32encode(secrets.token_bytes(15)).decode("ascii").lower()
