"""Puts two answers into one form, so that case, punctuation and articles do not count as mistakes.

The steps are those of the SQuAD evaluation script (Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine
Comprehension of Text", EMNLP 2016): lower-case, drop punctuation, drop English articles, squeeze white space.
Three differences, each because the original calls different answers equal:

- Unicode is folded first (NFKC; curly quotes, dashes and the minus sign become the ASCII ones).
- A number keeps its value: the decimal point and a leading minus stay (`1.0` is not `10`, `-1` is not `1`),
  thousands commas go (`1,000` is `1000`), any other mark between two digits becomes a space (`1-2` is not `12`).
- If nothing would be left (`*`, `A`), the articles and then the punctuation stay, so that `*` is not equal to `%`.
"""

from __future__ import annotations

import re
import string
import unicodedata

_FOLDED = str.maketrans(
    {**dict.fromkeys("‘’‚‛′`´", "'"), **dict.fromkeys("“”„‟″«»", '"'), **dict.fromkeys("‐‑‒–—―−", "-")}
)
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_THOUSANDS = re.compile(r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?![\w,])")
# Private-use characters hold the places of marks that belong to a number while punctuation is dropped.
_POINT, _MINUS = "\ue000", "\ue001"
_DECIMAL_POINT = re.compile(r"(?<![^\W\d])\.(?=\d)")
_LEADING_MINUS = re.compile(r"(?<![\w\ue000)\]])-(?=\ue000?\d)")
_BETWEEN_DIGITS = re.compile(r"(?<=\d)[^\w\s\ue000\ue001](?=\d)")


def normalise(text: str) -> str:
    """The form in which two answers are compared: see the module for the rules."""
    folded = unicodedata.normalize("NFKC", text.translate(_FOLDED)).translate(_FOLDED).lower()
    plain = _squeeze(_drop_punctuation(_protect_numbers(folded)))
    return _squeeze(_ARTICLE.sub(" ", plain)) or plain or _squeeze(folded)


def tokens(text: str) -> list[str]:
    """The words of the normalised text."""
    return normalise(text).split()


def _protect_numbers(text: str) -> str:
    text = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)
    text = _DECIMAL_POINT.sub(_POINT, text)
    text = _LEADING_MINUS.sub(_MINUS, text)
    return _BETWEEN_DIGITS.sub(" ", text)


def _drop_punctuation(text: str) -> str:
    kept = (character for character in text if not _is_punctuation(character))
    return "".join(kept).replace(_POINT, ".").replace(_MINUS, "-")


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def _squeeze(text: str) -> str:
    return " ".join(text.split())
