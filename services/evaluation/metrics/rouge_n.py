"""How many runs of n words the answer shares with the reference."""

from collections import Counter

from services.evaluation.metrics.normalise import tokens


def rouge_n(reference: str, answer: str, n: int) -> float:
    """ROUGE-N with beta = 1 over normalised words, 0..1.

    The F-measure of shared n-grams, counted with repetitions (Lin, "ROUGE: A Package for Automatic Evaluation of
    Summaries", ACL workshop 2004, section 2; precision as in its later releases). Texts that are both too short for
    an n-gram agree if their words are equal; if one is too short, nothing is shared.
    """
    wanted, given = tokens(reference), tokens(answer)
    grams, shown = _grams(wanted, n), _grams(given, n)
    if not grams and not shown:
        return float(wanted == given)
    return 2 * (grams & shown).total() / (grams.total() + shown.total())


def _grams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))
