"""How many word sequences of the answer stand in the reference, with a penalty for being short."""

from functools import cache

from sacrebleu.metrics import BLEU


def bleu(reference: str, answer: str) -> float:
    """Sentence BLEU, 0..1 (Papineni et al., ACL 2002), as sacrebleu computes it: 13a tokens, exponential smoothing.

    With the effective order, so that a text of fewer than four words can reach 1. Two blank texts agree (1.0).
    """
    if not reference.strip() and not answer.strip():
        return 1.0
    return min(1.0, float(_scorer().sentence_score(answer, [reference]).score) / 100)


@cache
def _scorer() -> BLEU:
    return BLEU(effective_order=True)
