"""The words that full-text search compares: Postgres's English stems, plus whole identifiers such as wal_level.

Postgres's parser takes `autovacuum_naptime` apart into two common words; as one lexeme it is what tells its document
from every other, so compounds are kept whole beside their parts.
"""

import re
from collections import Counter
from collections.abc import Mapping

_COMPOUND = re.compile(r"[A-Za-z0-9]+(?:[_.\-/:][A-Za-z0-9]+)+")
_MOST_CHARACTERS = 200
_MOST_TIMES = 16
"""A word's count saturates long before; a lexeme's positions are stored one by one."""


def compounds(text: str) -> Counter[str]:
    """Identifiers of several parts, lower case, with their counts, in order of appearance."""
    found = (match.lower() for match in _COMPOUND.findall(text))
    return Counter(word for word in found if len(word) <= _MOST_CHARACTERS)


def tsvector_literal(words: Mapping[str, int], weight: str) -> str:
    """A tsvector's text form that has each word so many times, all at the weight (A to D)."""

    def places(times: int) -> str:
        return ",".join(f"{place}{weight}" for place in range(1, min(times, _MOST_TIMES) + 1))

    return " ".join(f"{quote(word)}:{places(times)}" for word, times in words.items())


def quote(word: str) -> str:
    """A lexeme in the quotes of tsvector and tsquery literals."""
    return "'" + word.replace("\\", "\\\\").replace("'", "''") + "'"
