"""What retrieval adds to the settings."""

from shared.settings import Settings


class RetrievalSettings(Settings):
    """UPLIFT_EMBEDDER names a folder under the home's models; the others are sizes in tokens or rows."""

    embedder: str = "all-minilm-l6-v2"
    passage_tokens: int = 120
    """The most tokens a passage has by default: context is what costs, most of all on a CPU."""
    passage_overlap: int = 0
    files_per_transaction: int = 64
    bytes_per_transaction: int = 256 * 1024
    """A batch of files ends at either; one file larger than this is a batch of its own."""
