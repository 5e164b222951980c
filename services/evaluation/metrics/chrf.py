"""How many character n-grams the answer shares with the reference: kinder than words to inflected languages."""

from functools import cache

from sacrebleu.metrics import CHRF


def chrf(reference: str, answer: str) -> float:
    """chrF of one answer, 0..1 (Popović, "chrF: character n-gram F-score", WMT 2015), as sacrebleu computes it.

    Character 6-grams, beta = 2, on the raw text. Two blank texts agree (1.0).
    """
    if not reference.strip() and not answer.strip():
        return 1.0
    return min(1.0, float(_scorer().sentence_score(answer, [reference]).score) / 100)


@cache
def _scorer() -> CHRF:
    return CHRF()
