"""Whether the answer is the reference once both are normalised."""

from services.evaluation.metrics.normalise import normalise


def exact_match(reference: str, answer: str) -> float:
    """1.0 if the normalised texts are equal, else 0.0 (Rajpurkar et al., EMNLP 2016)."""
    return float(normalise(reference) == normalise(answer))
