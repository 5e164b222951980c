"""Cleaning text without changing what it says, and the looser key by which texts count as the same."""

import re
import unicodedata

_QUOTES = str.maketrans({"‘": "'", "’": "'", "‚": "'", "‛": "'", "“": '"', "”": '"', "„": '"', "‟": '"'})
# the joiners U+200C and U+200D stay: they carry meaning in Persian, in Indic scripts and in emoji
_INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f]")
_ODD_SPACES = re.compile("[\u00a0\u2007\u202f]")
_LINE_END = re.compile(r"[ \t]*\r\n?|[ \t]+\n")
_WORD = re.compile(r"\w+")


def clean_text(text: str) -> str:
    """NFC, plain quotes and spaces, Unix line ends, no control or invisible characters, no space at the ends.

    Case, indentation, inner spacing and blank lines stay, since in code and tables they mean something. Applying it
    twice changes nothing more.
    """
    text = _LINE_END.sub("\n", text)
    text = _INVISIBLE.sub("", _CONTROL.sub("", text))
    text = unicodedata.normalize("NFC", text)
    text = _ODD_SPACES.sub(" ", text).translate(_QUOTES)
    return re.sub(r"[ \t]+\n", "\n", text).strip()


def comparison_key(text: str) -> str:
    """What two wordings of the same question share: words alone, case folded, compatibility forms unified.

    For finding duplicates only; it does change meaning, so it is never stored.
    """
    return " ".join(words(text))


def words(text: str) -> list[str]:
    """The words of a text as `comparison_key` sees them; identifiers such as `work_mem` stay whole."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def answer_key(text: str) -> str:
    """Answers are compared with case and punctuation: `Co` is not `CO`, and `-2` is not `2`."""
    return " ".join(clean_text(text).split())
