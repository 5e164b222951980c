"""What the data service adds to the settings: how much it accepts."""

from shared.settings import Settings


class DataSettings(Settings):
    """Limits of uploads and imports."""

    max_upload_bytes: int = 512 * 2**20
    max_examples: int = 200_000
    """Examples of one dataset; an import holds them in memory, about 2 kB each."""
    max_line_bytes: int = 4 * 2**20
    long_example_chars: int = 8_000
    """Longer examples are kept but counted in the quality report: they are likely to be cut in training."""
