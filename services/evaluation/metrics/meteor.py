"""Words that answer and reference share, by themselves or by their stem, and how much in one piece."""

from nltk.tokenize import wordpunct_tokenize
from nltk.translate.meteor_score import single_meteor_score


class _NoSynonyms:
    """Stands where nltk would look WordNet's synonyms up: that data has to be fetched, which we never do."""

    def synsets(self, _word: str) -> list[object]:
        return []


def meteor(reference: str, answer: str) -> float:
    """METEOR with its exact and its stem module, 0..1, as nltk computes it (Banerjee & Lavie, ACL workshop 2005).

    With m matches in c chunks, P = m / words of the answer, R = m / words of the reference, the score is
    10 P R / (R + 9 P) * (1 - 0.5 (c / m)^3). The penalty keeps it below 1 even for equal texts (0.5 for one equal
    word, 0.9995 for ten); two blank texts agree (1.0).
    """
    wanted, given = wordpunct_tokenize(reference), wordpunct_tokenize(answer)
    if not wanted or not given:
        return float(wanted == given)
    return float(single_meteor_score(wanted, given, wordnet=_NoSynonyms()))
