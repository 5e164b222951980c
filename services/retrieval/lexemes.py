"""The words that full-text search compares: Postgres's English stems, plus whole identifiers such as wal_level.

Postgres's parser takes `autovacuum_naptime` apart into two common words; as one lexeme it is what tells its document
from every other, so compounds are kept whole beside their parts.
"""

import re

_COMPOUND = re.compile(r"[A-Za-z0-9]+(?:[_.\-/:][A-Za-z0-9]+)+")


def compounds(text: str) -> list[str]:
    """Identifiers of several parts, lower case, each once, in order of appearance."""
    return list(dict.fromkeys(found.lower() for found in _COMPOUND.findall(text)))


def tsvector_literal(words: list[str], weight: str) -> str:
    """A tsvector's text form that gives each word the weight (A to D)."""
    return " ".join(f"{quote(word)}:1{weight}" for word in words)


def quote(word: str) -> str:
    """A lexeme in the quotes of tsvector and tsquery literals."""
    return "'" + word.replace("\\", "\\\\").replace("'", "''") + "'"
