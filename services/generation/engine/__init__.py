"""The batching engine: one thread runs one base model for every request in flight, whatever their adapters."""

from services.generation.engine.engine import Engine

__all__ = ["Engine"]
