"""How few characters have to go and come to turn one text into the other."""

from rapidfuzz import fuzz


def fuzzy_match(reference: str, answer: str) -> float:
    """The normalised similarity by insertions and deletions, 0..1, as rapidfuzz computes it (`fuzz.ratio` / 100).

    One minus the fewest insertions and deletions over the summed lengths. Two empty texts agree (1.0).
    """
    return float(fuzz.ratio(reference, answer)) / 100
