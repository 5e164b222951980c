"""BLEU's kinder relative for single sentences: the smaller of n-gram precision and recall."""

from nltk.tokenize import wordpunct_tokenize
from nltk.translate.gleu_score import sentence_gleu


def gleu(reference: str, answer: str) -> float:
    """Sentence GLEU over 1- to 4-grams, 0..1 (Wu et al., "Google's Neural Machine Translation System", 2016,
    section 4), as nltk computes it. Case counts. Two blank texts agree (1.0)."""
    wanted, given = wordpunct_tokenize(reference), wordpunct_tokenize(answer)
    if not wanted or not given:
        return float(wanted == given)
    return float(sentence_gleu([wanted], given))
