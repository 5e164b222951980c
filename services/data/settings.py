"""What the data service adds to the settings: how much it accepts."""

from shared.settings import Settings


class DataSettings(Settings):
    """Limits of uploads and imports."""

    max_part_bytes: int = 64 * 2**20
    """One part of an upload; OpenAI's client sends parts of this size."""
    max_chunked_bytes: int = 8 * 2**30
    """A file that is uploaded in parts."""
    max_examples: int = 200_000
    """Examples of one dataset; an import holds them in memory, about 2 kB each."""
    max_line_bytes: int = 4 * 2**20
    long_example_chars: int = 8_000
    """Longer examples are kept but counted in the quality report: they are likely to be cut in training."""
