"""How much of the reference the answer repeats in the same order."""

from collections.abc import Sequence

from rapidfuzz.distance import LCSseq

from services.evaluation.metrics.normalise import tokens


def rouge_l(reference: str, answer: str) -> float:
    """ROUGE-L with beta = 1 over normalised words, 0..1.

    The F-measure of the longest common subsequence (Lin, "ROUGE: A Package for Automatic Evaluation of
    Summaries", ACL workshop 2004, equations 2-4). Two empty texts agree (1.0), one empty text does not (0.0).
    """
    wanted, given = tokens(reference), tokens(answer)
    if not wanted or not given:
        return float(wanted == given)
    return 2 * longest_common_subsequence(wanted, given) / (len(wanted) + len(given))


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length, as rapidfuzz counts it: 64 words of one side at a time."""
    return int(LCSseq.similarity(first, second))
