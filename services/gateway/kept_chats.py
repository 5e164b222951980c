"""Chats that ask for their answer to be kept: they create something, as other orders do."""

import json

_MARKS = (b'"store"', b"\\u006", b"\\u007")
"""One of these stands in every body with the field: its name, or a letter of it written as an escape."""


def keeps_answer(method: str, path: str, body: bytes | None) -> bool:
    """Whether this is a chat whose answer is stored.

    A body is parsed for it only where it may say so: a plain chat, which is what is asked most, must cost nothing here.
    """
    if method != "POST" or path.strip("/") != "chat/completions" or not body:
        return False
    return any(mark in body for mark in _MARKS) and _says_store(body)


def _says_store(body: bytes) -> bool:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):  # the route refuses it
        return False
    return isinstance(found, dict) and found.get("store") is True
