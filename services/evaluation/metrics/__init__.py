"""Deterministic scores of one answer or one ranking; pure functions of text."""

from services.evaluation.metrics.normalise import normalise, tokens
from services.evaluation.metrics.registry import METRICS, Metric, score_answer
from services.evaluation.metrics.retrieval import score_retrieval

__all__ = ["METRICS", "Metric", "normalise", "score_answer", "score_retrieval", "tokens"]
