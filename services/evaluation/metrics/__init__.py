"""Deterministic scores of one answer or one ranking; pure functions of text."""

from .normalise import normalise, tokens
from .registry import METRICS, Metric, score_answer
from .retrieval import score_retrieval

__all__ = ["METRICS", "Metric", "normalise", "score_answer", "score_retrieval", "tokens"]
