"""How many words the answer shares with the reference, whatever their order."""

from collections import Counter

from services.evaluation.metrics.normalise import tokens


def token_f1(reference: str, answer: str) -> float:
    """Harmonic mean of word precision and recall over normalised words, 0..1 (Rajpurkar et al., EMNLP 2016).

    Two empty texts agree (1.0); one empty text shares nothing (0.0).
    """
    wanted, given = Counter(tokens(reference)), Counter(tokens(answer))
    if not wanted or not given:
        return float(wanted == given)
    shared = (wanted & given).total()
    return 2 * shared / (wanted.total() + given.total())
