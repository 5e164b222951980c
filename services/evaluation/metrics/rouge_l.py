"""How much of the reference the answer repeats in the same order."""

from collections.abc import Sequence

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
    """Its length, by dynamic programming over one row: O(len(first) * len(second)) time, O(len(second)) memory."""
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for column, other in enumerate(second, start=1):
            above = row[column]
            row[column] = diagonal + 1 if word == other else max(above, row[column - 1])
            diagonal = above
    return row[-1]
