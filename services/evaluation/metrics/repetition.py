"""How much an answer repeats itself: a model that loops scores high."""

from itertools import pairwise


def repetition(answer: str) -> float:
    """The share of the answer's word pairs that occurred before in it, 0..1; 0 below two words.

    1 - distinct / all n-grams, as in Welleck et al., "Neural Text Generation with Unlikelihood Training",
    ICLR 2020 (there with n = 4; domain answers are short, so n = 2 here).
    """
    pairs = list(pairwise(answer.lower().split()))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0
