"""What generation adds to the settings."""

from shared.settings import Settings


class GenerationSettings(Settings):
    """UPLIFT_MAX_BATCH and friends: sizes that decide memory and speed of the engine."""

    max_batch: int = 32
    """Requests that decode together."""
    max_engines: int = 2
    """Base models loaded at once; the least recently used is dropped."""
    default_max_tokens: int = 256
    """The longest answer when the request does not say."""
