"""How long an answer is: a model that pads can be right and still worse."""


def length(answer: str) -> float:
    """The number of words, split at white space."""
    return float(len(answer.split()))
