"""What generation adds to the settings."""

from typing import Annotated

from pydantic import Field

from shared.settings import Settings


class GenerationSettings(Settings):
    """UPLIFT_MAX_BATCH and friends: sizes that decide memory and speed of the engine."""

    max_batch: int = 32
    """Requests that decode together."""
    max_engines: int = 2
    """Base models loaded at once; the least recently used is dropped."""
    default_max_tokens: int = 256
    """The longest answer when the request does not say."""
    stored_completion_days: Annotated[int, Field(ge=0, le=36_500)] = 30
    """How long an answer asked with `store` is kept; 0 keeps it until it is deleted."""
